"""The one `ClientApp`: simulations, the embedded agent and a stock SuperNode all run this.

Which port of a device answers a round is the caller's; nothing but what the gate sealed is ever sent; a refusal says nothing of
its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from edge_client.share.port import DevicePort, FeaturesArray, TargetsArray, Trainer, UpdateArray, WeightsArray
from shared_models.messages import QUERY_STAGES, contribution_records, read_round, read_stage, stage_records
from shared_models.wire import LocalTraining

logger = logging.getLogger(__name__)


def make_client_app(port_for: Callable[[Context], DevicePort], trainer: Trainer | None = None) -> ClientApp:
    """A Flower ClientApp that answers `train` messages, and the stages of a secure sum (`query.*`), by the device's port.

    `trainer` computes the raw update; by default Opacus on this process's torch.
    """
    app = ClientApp()
    train_with: Trainer = trainer or _OpacusOnDemand()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            plan, labels, weights, request = read_round(message)
            sealed = port_for(context).contribute(plan, labels, weights, train_with, request)
        except Exception as error:  # noqa: BLE001 - Flower would put an exception's text into the reply
            return _refusal(message, error)
        return Message(contribution_records(sealed), reply_to=message)

    for stage in QUERY_STAGES:
        app.query(stage)(_stage_handler(stage, port_for))
    return app


def _stage_handler(stage: str, port_for: Callable[[Context], DevicePort]) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        try:
            asked = read_stage(message)
            sealed = port_for(context).answer_stage(asked.task, asked.round_id, stage, asked.body)
        except Exception as error:  # noqa: BLE001 - as above
            return _refusal(message, error)
        return Message(stage_records(sealed), reply_to=message)

    return answer


def _refusal(message: Message, error: Exception) -> Message:
    # The kind of error stays here too: to the aggregator all refusals look alike.
    logger.debug("message %s refused: %s", message.metadata.message_id, type(error).__name__)
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "refused"), reply_to=message)


class _OpacusOnDemand:
    """Loads torch and Opacus with the first training: an agent that waits for rounds needs neither (300 MB)."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    def __call__(
        self, local: LocalTraining, features: FeaturesArray, targets: TargetsArray, weights: WeightsArray
    ) -> UpdateArray:
        if self._trainer is None:
            from privacy.dpsgd import HeadTrainer

            self._trainer = HeadTrainer()
        return self._trainer(local, features, targets, weights)
