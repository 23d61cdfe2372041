"""How one round's contributions are collected, in either trust mode: replies in, one noisy sum out.

`Collected` is what the round learns; which devices gave what is not kept. A device counts once; what does not fit is rejected
and counted. The stages of a secure sum end when every node that takes part has answered or a stage's share of the time is up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from aggregator.exchange import exchange
from privacy.gate import contribution_commitment
from privacy.mechanisms import NoisySum, TrustedSum
from privacy.secure_sum.messages import ADVERTISE, AGREE, DRAW, SHARE, STAGES, UNMASK
from privacy.secure_sum.server import ServerSession
from shared_models.errors import ContributionError, SecureSumError, WireError
from shared_models.messages import Contribution, RoundRecords, Stage, read_contribution, read_stage, stage_records
from shared_models.wire import RoundPlan

logger = logging.getLogger(__name__)


@dataclass
class Collected:
    """Counts of one round, and the commitments to what was received."""

    commitments: list[str] = field(default_factory=list)
    refused: int = 0
    rejected: int = 0
    bytes_up: int = 0
    roster: int = 0
    """Devices that took part in the secure sum; 0 in mode `trusted-aggregator`."""
    stage: str = ""
    """The stage of the secure sum that is running, or in which the round failed."""
    survivors: int | None = None


class _Replies:
    """Takes the replies to one question: one for each node that was asked."""

    def __init__(self, nodes: Sequence[int], collected: Collected) -> None:
        self._awaited = set(nodes)
        self._collected = collected

    def take(self, reply: Message, accept: Callable[[int, Message], None]) -> None:
        node_id = reply.metadata.src_node_id
        if node_id not in self._awaited:
            self._reject(node_id, "it was not asked or has answered before")
            return
        if reply.has_error():
            self._awaited.discard(node_id)
            self._collected.refused += 1
            return
        try:
            accept(node_id, reply)
        except (WireError, ContributionError, SecureSumError) as error:
            self._reject(node_id, str(error))
            return
        self._awaited.discard(node_id)

    def _reject(self, node_id: int, why: str) -> None:
        self._collected.rejected += 1
        logger.warning("a reply of node %d was rejected: %s", node_id, why)


def collect_trusted(
    grid: Grid, plan: RoundPlan, records: RoundRecords, cohort: Sequence[int], deadline_s: float, collected: Collected
) -> NoisySum:
    """Mode `trusted-aggregator`: one question. Raises TooFewSurvivorsError; `collected` is filled on the way."""
    total = TrustedSum(plan)

    def accept(_: int, reply: Message) -> None:
        contribution = _contribution_to(plan, reply)
        total.add(contribution.values)
        _count(plan, contribution, collected)

    replies = _Replies(cohort, collected)
    shared = records.content()
    for reply in exchange(grid, lambda _: (shared, 0), cohort, "train", plan.round_id, time.monotonic() + deadline_s):
        replies.take(reply, accept)
    collected.survivors = total.survivors
    return total.release()


class SecureCollection:
    """Mode `distributed`: the six stages of a secure sum over a grid.

    Raises SecureSumError or TooFewSurvivorsError; `collected.stage` then says where it ended, and nothing was unmasked.
    """

    def __init__(
        self,
        grid: Grid,
        plan: RoundPlan,
        signed_plan: bytes,
        records: RoundRecords,
        enrolment_key: bytes,
        clock: Callable[[], float],
        deadline_s: float,
        collected: Collected,
    ) -> None:
        self._grid = grid
        self._plan = plan
        self._signed_plan = signed_plan
        self._records = records
        self._stage_s = deadline_s / len(STAGES)
        self._session = ServerSession(plan, enrolment_key, clock)
        self._collected = collected
        self._place: dict[int, int] = {}
        """Node → place in the roster."""
        self._node: dict[int, int] = {}

    def run(self, cohort: Sequence[int]) -> NoisySum:
        session = self._session
        self._ask(ADVERTISE, cohort, lambda _: self._signed_plan, self._advert)
        session.close_roster()
        self._collected.roster = session.roster
        self._ask(DRAW, list(self._place), self._at_place(session.draw_request), self._taken(session.add_draw))
        session.open_sharing()
        self._ask(
            SHARE, self._nodes(session.drawn()), self._at_place(session.share_request), self._taken(session.add_shares)
        )
        session.open_contributing()
        self._contribute()
        session.open_agreement()
        view = session.agree_request()
        self._ask(AGREE, self._nodes(session.contributors()), lambda _: view, self._taken(session.add_signature))
        session.open_unmasking()
        self._ask(
            UNMASK,
            self._nodes(session.contributors()),
            self._at_place(session.unmask_request),
            self._taken(session.add_unmasking),
        )
        return session.release()

    def _advert(self, node: int, body: bytes) -> None:
        place = self._session.add_advert(body)
        self._place[node], self._node[place] = place, node

    def _contribute(self) -> None:
        self._collected.stage = "contribute"
        session = self._session

        def accept(node: int, reply: Message) -> None:
            contribution = _contribution_to(self._plan, reply)
            session.add_contribution(self._place[node], contribution.values, contribution.proof)
            _count(self._plan, contribution, self._collected)

        nodes = self._nodes(session.sharers())
        replies = _Replies(nodes, self._collected)
        give_up_s = time.monotonic() + self._stage_s

        def content(node: int) -> tuple[RecordDict, int]:
            request = session.contribute_request(self._place[node])
            return self._records.content(request), len(request)

        for reply in exchange(self._grid, content, nodes, "train", self._plan.round_id, give_up_s):
            replies.take(reply, accept)
        self._collected.survivors = session.survivors

    def _ask(
        self, stage: str, nodes: Sequence[int], body: Callable[[int], bytes], accept: Callable[[int, bytes], None]
    ) -> None:
        self._collected.stage = stage
        task, round_id = self._plan.task, self._plan.round_id

        def take(node: int, reply: Message) -> None:
            answer = read_stage(reply)
            if (answer.task, answer.round_id) != (task, round_id):
                raise WireError("it answers another round")
            accept(node, answer.body)
            self._collected.bytes_up += len(answer.body)

        replies = _Replies(nodes, self._collected)
        give_up_s = time.monotonic() + self._stage_s

        def content(node: int) -> tuple[RecordDict, int]:
            request = body(node)
            return stage_records(Stage(task, round_id, request)), len(request)

        for reply in exchange(self._grid, content, nodes, f"query.{stage}", round_id, give_up_s):
            replies.take(reply, take)

    def _nodes(self, places: Sequence[int]) -> list[int]:
        return [self._node[place] for place in places]

    def _at_place(self, request: Callable[[int], bytes]) -> Callable[[int], bytes]:
        return lambda node: request(self._place[node])

    def _taken(self, add: Callable[[int, bytes], None]) -> Callable[[int, bytes], None]:
        return lambda node, body: add(self._place[node], body)


def _contribution_to(plan: RoundPlan, reply: Message) -> Contribution:
    contribution = read_contribution(reply)
    if (contribution.task, contribution.round_id, contribution.plan_hash) != (plan.task, plan.round_id, plan.hash):
        raise ContributionError("it answers another plan")
    return contribution


def _count(plan: RoundPlan, contribution: Contribution, collected: Collected) -> None:
    collected.bytes_up += contribution.values.nbytes + len(contribution.proof)
    collected.commitments.append(contribution_commitment(plan.hash, contribution.nonce, contribution.values))
