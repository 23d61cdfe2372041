"""The gate over the encrypted store of a real device, with kill -9 at every step between plan and reply."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from privacy_world import (
    ENCODER_HASH,
    MODEL_HASH,
    NOW_S,
    OFFICER_PUBLIC,
    PURPOSE,
    make_plan,
    parsed,
    policy_document,
    signed_plan,
    signed_policy,
)

from edge_client.know.consent import Consent
from edge_client.know.store import Store
from edge_client.know.store.frames import MARK, PREFIX_BYTES
from privacy.gate import Gate
from privacy.ledger import Entry, verify_chain
from shared_models.errors import BudgetExceededError, ConsentError, MemoryLostError, ReplayError

KEY = bytes(range(32))


def clock() -> float:
    return float(NOW_S)


def open_gate(store: Store) -> Gate:
    consent = Consent(store, clock)
    return Gate(officer_key=OFFICER_PUBLIC, consent=consent, memory=store.table("gate"), clock=clock)


def seal(gate: Gate, round_id: int, update=lambda plan: np.ones(plan.dimension)):  # type: ignore[no-untyped-def]
    plan = make_plan(parsed(policy_document(participations=20)), round_id)
    return gate.seal(signed_plan(plan), update, model_hash=MODEL_HASH, encoder_hash=ENCODER_HASH)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A device that has consented and answered round 1."""
    with Store(tmp_path / "home", key=KEY) as store:
        Consent(store, clock).grant(PURPOSE)
        gate = open_gate(store)
        gate.adopt_policy(signed_policy(policy_document(participations=20)))
        seal(gate, 1)
    return tmp_path / "home"


def test_policy_budget_and_receipts_survive_a_restart_in_order(home: Path) -> None:
    for first in (2, 8, 14):
        with Store(home, key=KEY) as store:
            gate = open_gate(store)
            for round_id in range(first, first + 6):
                seal(gate, round_id)
    with Store(home, key=KEY) as store:
        gate = open_gate(store)
        assert gate.policy is not None
        entries = [Entry.from_document(item) for item in gate.receipts()]
        verify_chain(entries)
        assert [entry.body["round_id"] for entry in entries] == list(range(1, 20))
        assert gate.budget(PURPOSE).participations == 19
        seal(gate, 20)
        with pytest.raises(BudgetExceededError):
            seal(gate, 21)
        with pytest.raises(ReplayError):
            seal(gate, 1)


def test_consent_of_the_real_store_is_asked(home: Path) -> None:
    with Store(home, key=KEY) as store:
        Consent(store, clock).withdraw(PURPOSE)
        with pytest.raises(ConsentError):
            seal(open_gate(store), 2)


def test_a_purpose_that_only_the_policy_knows_is_a_refusal(home: Path) -> None:
    plan = make_plan(parsed(policy_document(participations=20)), 2, purpose="surveillance")
    with Store(home, key=KEY) as store:
        with pytest.raises(ConsentError):
            open_gate(store).seal(
                signed_plan(plan), lambda _: np.ones(12), model_hash=MODEL_HASH, encoder_hash=ENCODER_HASH
            )


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_gate_on_the_real_store import KEY, Store, open_gate, seal
from edge_client.platform import FAULT_VARIABLE
home, fault, when = sys.argv[2:]
def update(plan):
    if when == "update":
        os.kill(os.getpid(), signal.SIGKILL)
    if when == "receipt":
        os.environ[FAULT_VARIABLE] = fault
    return np.ones(plan.dimension)
with Store(home, key=KEY) as store:
    gate = open_gate(store)
    if when == "reserve":
        os.environ[FAULT_VARIABLE] = fault
    seal(gate, 2, update)
    print("sealed", flush=True)
"""


def killed_child(home: Path, when: str, fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(home), fault, when],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    assert "sealed" not in done.stdout


@pytest.mark.parametrize(
    ("when", "fault", "spent"),
    [
        ("update", "", True),
        ("reserve", "store.append.half_write", False),
        ("reserve", "store.append.after_sync", True),
        ("reserve", "store.after_counter", True),
        ("receipt", "store.append.before_write", True),
        ("receipt", "store.append.half_write", True),
        ("receipt", "store.append.after_write", True),
        ("receipt", "store.append.after_sync", True),
        ("receipt", "store.after_counter", True),
    ],
)
def test_kill_9_between_plan_and_reply_never_gives_budget_back(home: Path, when: str, fault: str, spent: bool) -> None:
    """Nothing has left the device in any of these: what is killed before the reservation is durable cost nothing."""
    killed_child(home, when, fault)
    with Store(home, key=KEY) as store:
        gate = open_gate(store)
        verify_chain([Entry.from_document(item) for item in gate.receipts()])
        assert gate.budget(PURPOSE).participations == (2 if spent else 1)
        if spent:
            with pytest.raises(ReplayError):
                seal(gate, 2)
            seal(gate, 3)
        else:
            seal(gate, 2)


def test_where_damage_may_have_taken_an_expense_nothing_leaves_any_more(home: Path) -> None:
    path = home / "store.tacit"
    raw = bytearray(path.read_bytes())
    reserved = [found.start() for found in re.finditer(re.escape(MARK), raw)][-2]
    raw[reserved + PREFIX_BYTES + 30] ^= 1
    path.write_bytes(raw)
    with Store(home, key=KEY) as store:
        assert store.quarantined
        Consent(store, clock).grant(PURPOSE)
        gate = open_gate(store)
        assert gate.spendings() == [], "the expense of round 1 is what was lost"
        with pytest.raises(MemoryLostError):
            seal(gate, 2)
    with Store(home, key=KEY) as store, pytest.raises(MemoryLostError):
        seal(open_gate(store), 3)
