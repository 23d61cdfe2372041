"""Law 1, one door out: only the gate makes what leaves a device, and nothing of the user's words is in it or in any log."""

from __future__ import annotations

import ast
import base64
import copy
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from real_bundle import RealBundle

from aggregator.grid import InProcessGrid
from edge_client import EdgeClient
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.port import DevicePort, Trainer
from privacy.clipping import from_ring
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_text import PolicyDraft, draft_policy
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import PolicyError, TacitError
from shared_models.messages import QUERY_STAGES, RoundRecords, read_contribution
from shared_models.purposes import INTENT_MODEL, PERSONAL_LEARNING
from shared_models.wire import PLAN_KIND, RoundPlan, model_hash, noise_variance_for

ROOT = Path(__file__).parents[1]
AGENT = ROOT / "edge_client" / "share" / "agent"

# -- what the source says -------------------------------------------------------------------------------------------


def production_sources() -> Iterator[tuple[str, ast.Module]]:
    for top in ("aggregator", "edge_client", "privacy", "shared_models", "benchmarks", "examples", "deploy"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def called_name(node: ast.AST) -> str:
    """`f` of a call f(...), a.f(...); empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", None) or ""


@pytest.mark.parametrize("kind", ["SealedContribution", "SealedMessage"])
def test_only_the_gate_makes_what_leaves_a_device(kind: str) -> None:
    makers = [name for name, tree in production_sources() if any(called_name(x) == kind for x in ast.walk(tree))]
    assert makers == ["privacy/gate.py"]


def test_only_one_place_in_the_gate_makes_it_after_every_check() -> None:
    tree = ast.parse((ROOT / "privacy/gate.py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (seal,) = [item for item in functions if any(called_name(x) == "SealedContribution" for x in ast.walk(item))]
    assert seal.name == "seal"
    calls = sorted((x.lineno, called_name(x)) for x in ast.walk(seal) if called_name(x))
    order = [name for _, name in calls]
    steps = ["_authenticate", "_check", "_reserve", "update", "clip_l2", "_noise", "masked", "SealedContribution"]
    lines = [next(line for line, name in calls if name == step) for step in steps]
    assert lines == sorted(lines), order
    assert order.count("update") == 1
    assert order.index("_write_receipt") > order.index("SealedContribution")


def test_nobody_makes_one_behind_the_constructor() -> None:
    for name, tree in production_sources():
        assert not any(called_name(node) == "__new__" for node in ast.walk(tree)), name


def test_devices_build_messages_in_the_two_places_that_answer_rounds() -> None:
    found = [
        name
        for name, tree in production_sources()
        if name.startswith("edge_client/") and any(called_name(node) == "Message" for node in ast.walk(tree))
    ]
    assert found == ["edge_client/share/agent/client_app.py", "edge_client/share/agent/exchange.py"]


def test_an_agents_message_is_a_sealed_contribution_or_an_error_without_text() -> None:
    seen = []
    for path in sorted(AGENT.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if called_name(node) != "Message":
                continue
            assert isinstance(node, ast.Call)
            assert len(node.args) == 1, ast.unparse(node)
            assert [keyword.arg for keyword in node.keywords] == ["reply_to"], ast.unparse(node)
            content = node.args[0]
            assert isinstance(content, ast.Call), ast.unparse(node)
            seen.append(called_name(content))
            if called_name(content) in ("contribution_records", "stage_records"):
                assert [type(item) for item in content.args] == [ast.Name], ast.unparse(node)
                assert not content.keywords
            else:
                assert called_name(content) == "Error", ast.unparse(node)
                code, reason = content.args
                # A constant: no text of an exception can come in.
                assert ast.unparse(code).startswith("ErrorCode."), ast.unparse(node)
                assert isinstance(reason, ast.Constant), ast.unparse(node)
    assert sorted(seen) == ["Error", "Error", "contribution_records", "stage_records"]


def test_agents_hand_no_other_records_to_flower() -> None:
    """No ArrayRecord, MetricRecord or ConfigRecord is built on a device, and none but an empty RecordDict."""
    for path in sorted((ROOT / "edge_client").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert called_name(node) not in ("ArrayRecord", "MetricRecord", "ConfigRecord", "Array"), path
            if called_name(node) == "RecordDict":
                assert isinstance(node, ast.Call)
                assert not node.args
                assert not node.keywords


def test_the_client_app_answers_train_messages_only() -> None:
    tree = ast.parse((AGENT / "client_app.py").read_text(encoding="utf-8"))
    handlers = [
        called_name(decorator)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    ]
    assert handlers == ["train"]
    # And the stages of a secure sum, by name: `app.query(stage)` in one loop over them.
    queries = [node for node in ast.walk(tree) if called_name(node) == "query"]
    assert [ast.unparse(node) for node in queries] == ["app.query(stage)"]
    assert QUERY_STAGES == ("advertise", "draw", "share", "agree", "unmask")


def test_devices_open_connections_in_three_places_only() -> None:
    """The fleet's client, the fetcher of published bundles, which sends nothing of the user's, and the app's own back end, from
    which a device pulls. The sidecar listens; that it calls nobody is a test of its own."""
    networks = ("socket", "http", "urllib", "httpx", "requests", "grpc", "aiohttp", "websockets", "smtplib", "ftplib")
    found = set()
    for name, tree in production_sources():
        if not name.startswith(("edge_client/", "privacy/", "shared_models/")):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(item.partition(".")[0] in networks and item != "urllib.parse" for item in names):
                found.add(name)
            if any(item.startswith("flwr.supernode") or "fleet_client" in item for item in names):
                found.add(name)
    assert {name for name in found if not name.startswith("edge_client/sidecar/")} <= {
        "edge_client/share/agent/fleet_client.py",
        "edge_client/share/agent/fleet.py",
        "edge_client/share/agent/exchange.py",
        "edge_client/share/agent/node.py",
        "edge_client/bundle_source.py",
        "edge_client/bundle_check.py",
        "edge_client/bundles.py",
        "edge_client/know/connectors/channel.py",
        "edge_client/answer/endpoint.py",
    }, found


# -- what the wire and the logs say ---------------------------------------------------------------------------------

CANARY = "zweiundvierzig quokkas waltz at midnight"
WORDS = ("quokkas", "zweiundvierzig")


def disguises(phrase: str) -> list[bytes]:
    """The phrase as it could hide in bytes: plain, wide, hexadecimal, base64 at each alignment, and each of it backwards."""
    found = []
    for text in (phrase, phrase[::-1], phrase.upper(), phrase.upper()[::-1], phrase.title()):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            raw = text.encode(encoding)
            found += [raw, raw.hex().encode(), raw.hex().upper().encode()]
            for shift in range(3):
                # What surrounds it changes the characters at both ends: only the middle is certain.
                body = base64.b64encode(bytes(shift) + raw)
                found += [body[4:-4], base64.urlsafe_b64encode(bytes(shift) + raw)[4:-4]]
    return [*found, *(item[::-1] for item in found)]


NEEDLES = [item for phrase in (CANARY, *WORDS) for item in disguises(phrase) if len(item) >= 7]


def leaks(haystack: bytes) -> list[bytes]:
    return [needle for needle in NEEDLES if needle in haystack]


def serialised(reply: Message) -> bytes:
    """All bytes of a message as they go over the wire: its protobuf and every object that belongs to it."""
    reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    objects = [part.deflate() for part in get_all_nested_objects(reply).values()]
    return b"\0".join([message_to_proto(reply).SerializeToString(), *objects])


def test_the_search_finds_the_canary_in_every_disguise() -> None:
    for raw in (CANARY.encode(), CANARY.encode("utf-16-le"), CANARY[::-1].encode(), CANARY.upper().encode("utf-32-be")):
        for hidden in (raw, raw.hex().encode(), base64.b64encode(b"x" + raw + b"yz"), base64.b64encode(raw)[::-1]):
            assert leaks(b"before" + hidden + b"after"), hidden


class CannyPort:
    """A port of a device whose failure carries the user's words in its text."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: np.ndarray, trainer: Trainer, request: bytes = b""
    ) -> object:
        raise self._error


class Fleet:
    """The real bundle's officer and aggregator, and one complete device with a canary in its store."""

    def __init__(self, real: RealBundle, folder: Path) -> None:
        self.real = real
        self.client = EdgeClient.open(folder / "home", key=bytes(range(32)), bundle=real.folder)
        for purpose in (PERSONAL_LEARNING, INTENT_MODEL):
            self.client.consent.grant(purpose.name)
        self.client.feedback(CANARY, intent="book_flight")
        self.client.define_intent("dance_quokkas", [f"{CANARY} again"])
        text = draft_policy(
            PolicyDraft(
                fleet="test",
                aggregator_key=bytes(real.aggregator.verify_key),
                epsilon=4.0,
                participations=8,
                population=1000,
                min_survivors=1,
            ),
            now=datetime.now(UTC),
        )
        envelope = sign_policy(text, real.officer)
        self.policy: Policy = parse_policy(envelope, bytes(real.officer.verify_key))
        self.port: DevicePort = self.client.device_port()
        self.port.gate.adopt_policy(envelope)  # type: ignore[attr-defined]

    def content(self, round_id: int, **changes: object) -> RecordDict:
        labels = self.real.head.labels
        weights = np.ascontiguousarray(self.real.head.weights, np.float32)
        limits = self.policy.purposes[INTENT_MODEL.name].contributions["intent_head"]
        now_s = int(time.time())
        whole = {
            "task": "test",
            "round_id": round_id,
            "purpose": INTENT_MODEL.name,
            "contribution": "intent_head",
            "contribution_version": 1,
            "dimension": weights.size,
            "clip_norm": limits.clip_norm,
            "noise_variance": noise_variance_for(limits.noise_multiplier),
            "cohort": 1,
            "min_survivors": 1,
            "mode": "trusted-aggregator",
            "issued_s": now_s,
            "deadline_s": now_s + 300,
            "model_hash": model_hash(labels, weights),
            "encoder_hash": self.client.model.head.encoder_sha256,
            "policy_hash": self.policy.hash,
            "policy_sequence": self.policy.sequence,
            "local": limits.local,
        }
        plan = RoundPlan(**{**whole, **changes})  # type: ignore[arg-type]
        envelope = seal_envelope(PLAN_KIND, plan.to_bytes(), self.real.aggregator)
        return RoundRecords(envelope, labels, weights).content()

    def ask(self, port: DevicePort, content: RecordDict) -> Message:
        """One round through the real ClientApp on the in-process grid."""
        grid = InProcessGrid(make_client_app(lambda context: port), 1)
        (node,) = grid.get_node_ids()
        (reply,) = grid.send_and_receive([Message(content, node, "train", group_id="1")])
        return reply


@pytest.fixture(scope="module")
def fleet(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(real_bundle, tmp_path_factory.mktemp("door"))
    yield fleet
    fleet.client.close()


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger of every library at debug level, whatever it said about itself before."""
    loggers = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    before = [(item, item.level, item.propagate) for item in loggers]
    caplog.set_level(logging.DEBUG)
    for item in loggers:
        item.setLevel(logging.DEBUG)
        item.propagate = True
    yield caplog
    for item, level, propagate in before:
        item.setLevel(level)
        item.propagate = propagate


def test_a_round_carries_nothing_of_the_users_words(fleet: Fleet, all_logs: pytest.LogCaptureFixture) -> None:
    reply = fleet.ask(fleet.port, fleet.content(1))
    assert not reply.has_error()
    contribution = read_contribution(reply)
    # It is a real contribution, of the example that holds the canary.
    assert from_ring(contribution.values).any()
    raw = serialised(copy.deepcopy(reply))
    assert len(raw) > 4 * contribution.values.size
    assert not leaks(raw)
    assert not leaks(all_logs.text.encode())
    # Nothing but the two records, and no field but the named ones.
    assert sorted(reply.content) == ["contribution", "seal"]
    assert sorted(reply.content["seal"]) == ["nonce", "plan_hash", "proof", "round_id", "task"]


def test_what_a_device_keeps_does_hold_the_canary(fleet: Fleet) -> None:
    """Otherwise the test above would prove nothing."""
    assert leaks(repr(fleet.client.inspect()).encode())


def test_refusals_look_alike_and_carry_nothing(fleet: Fleet, all_logs: pytest.LogCaptureFixture) -> None:
    fleet.ask(fleet.port, fleet.content(2))
    replies = [
        fleet.ask(fleet.port, fleet.content(2)),
        fleet.ask(fleet.port, fleet.content(3, min_survivors=1, clip_norm=2.0)),
        fleet.ask(fleet.port, fleet.content(4, purpose="personal-learning")),
        fleet.ask(CannyPort(PolicyError(CANARY)), fleet.content(5)),  # type: ignore[arg-type]
        fleet.ask(CannyPort(TacitError(CANARY)), fleet.content(6)),  # type: ignore[arg-type]
    ]
    assert {(reply.has_error(), reply.error.code, reply.error.reason) for reply in replies} == {
        (True, replies[0].error.code, "refused")
    }
    for reply in replies:
        assert not leaks(serialised(reply))
    assert not leaks(all_logs.text.encode())


def test_a_message_that_is_no_round_gets_the_same_refusal(fleet: Fleet) -> None:
    reply = fleet.ask(fleet.port, RecordDict())
    assert (reply.has_error(), reply.error.reason) == (True, "refused")


def test_the_client_app_has_no_other_entry(fleet: Fleet) -> None:
    app = make_client_app(lambda context: fleet.port)
    for kind in ("query", "evaluate", "train.other", "query.dump"):
        grid = InProcessGrid(app, 1)
        (node,) = grid.get_node_ids()
        (reply,) = grid.send_and_receive([Message(fleet.content(50), node, kind, group_id="1")])
        assert reply.has_error(), kind
        assert not leaks(serialised(reply))


def test_without_consent_a_round_gets_a_refusal_that_looks_like_any_other(fleet: Fleet) -> None:
    fleet.client.consent.withdraw(INTENT_MODEL.name)
    try:
        reply = fleet.ask(fleet.port, fleet.content(60))
        assert (reply.has_error(), reply.error.reason) == (True, "refused")
    finally:
        fleet.client.consent.grant(INTENT_MODEL.name)


def test_a_device_without_examples_answers_with_zeros(fleet: Fleet) -> None:
    """A refusal would tell that there is nothing, or that personal learning is off."""
    receipts = len(fleet.port.gate.receipts())  # type: ignore[attr-defined]
    fleet.client.consent.withdraw(PERSONAL_LEARNING.name)
    reply = fleet.ask(fleet.port, fleet.content(70))
    assert not reply.has_error()
    assert not read_contribution(reply).values.any()
    assert len(fleet.port.gate.receipts()) == receipts + 1  # type: ignore[attr-defined]


def test_contexts_of_flower_keep_nothing(fleet: Fleet) -> None:
    """A ClientApp may leave state in its context, which a SuperNode persists: ours leaves none."""
    app = make_client_app(lambda context: fleet.port)
    grid = InProcessGrid(app, 1)
    (node,) = grid.get_node_ids()
    message = Message(fleet.content(80), node, "train", group_id="1")
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
    app(message, context)
    assert not context.state
