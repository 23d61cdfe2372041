"""An agent child for tests: everything of the real one but torch and Opacus. Trains by a plain sum; prints where it must not."""

from __future__ import annotations

import sys

from flwr.app import Context, Error, Message

print("a library that greets on stdout")

from plain_training import plain_sum  # noqa: E402

from edge_client.share.agent.child import run  # noqa: E402
from edge_client.share.port import DevicePort, FeaturesArray, TargetsArray, UpdateArray, WeightsArray  # noqa: E402
from shared_models.errors import TacitError  # noqa: E402
from shared_models.messages import contribution_records, read_round  # noqa: E402
from shared_models.wire import LocalTraining  # noqa: E402


def train(local: LocalTraining, features: FeaturesArray, targets: TargetsArray, weights: WeightsArray) -> UpdateArray:
    print("a library that prints while it trains", flush=True)
    return plain_sum(local, features, targets, weights)


def handler_for(port: DevicePort):
    def handle(message: Message, context: Context) -> Message:
        try:
            plan, labels, weights, request = read_round(message)
            return Message(
                contribution_records(port.contribute(plan, labels, weights, train, request)), reply_to=message
            )
        except TacitError:
            return Message(Error(2, "refused"), reply_to=message)

    return handle


if __name__ == "__main__":
    sys.exit(run(handler_for))
