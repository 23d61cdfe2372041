"""SIGKILL at random times over turns and reactions: of what was learned, all that was acknowledged is there, and nothing half.

A child does what a conversation does to the learned tables: a list is offered, one of it is reacted to, a question is asked and
answered. It tells when each step is durable. The parent kills it, opens the store as any program would, and compares.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_model import KEY, Child

from edge_client.decide.elicitation import Elicitor
from edge_client.decide.learned import MOST_OUTCOMES, Learned
from edge_client.decide.learned_records import Open
from edge_client.decide.preference import Signal
from edge_client.know.consent import Consent
from edge_client.know.store import Store
from shared_models.bandit_prior import BanditPrior
from shared_models.travel.action_features import declared_prior
from shared_models.travel.catalogue import load_catalogue

PERSONAL = "personalisation"
START_S = 1_800_000_000.0
PRIOR: BanditPrior = declared_prior(load_catalogue().feature_names)
SIZE = len(PRIOR.features)
STEPS = 3
"""Of one turn: offered, reacted to, question answered."""


def learned_of(store: Store, turn: int) -> Learned:
    now = {"s": START_S + turn}
    return Learned(store, Consent(store, lambda: now["s"]), lambda: now["s"])


def candidates(turn: int) -> np.ndarray:
    rows = np.random.default_rng(turn).normal(size=(3, SIZE))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def keys(turn: int) -> list[str]:
    return [f"{turn:06d}-{slot}" for slot in range(3)]


def do(store: Store, learned: Learned, number: int) -> None:
    """Step `number`, in one commit as the product makes it."""
    turn, step = divmod(number, STEPS)
    at_s, rows = START_S + turn, candidates(turn)
    with store.lock, store.transaction():
        if step == 0:
            learned.offer(
                {key: Open(f"item-{key}", rows, slot, 1 / 3, at_s, f"g{turn}") for slot, key in enumerate(keys(turn))}
            )
            learned.exposure.record(["ES", "IT", "FR"])
            learned.keep_state()
        elif step == 1:
            assert learned.settle(keys(turn)[0], "chosen")
            learned.note(Signal(f"item-{keys(turn)[0]}", "chosen", at_s))
        else:
            learned.elicitor.asked(at_s)
            learned.elicitor.outcome(skipped=False)
            learned.answer(rows[0], 1.0)
            learned.keep_state(topic=f"topic-{turn}")


def talking(home: Path, first: int) -> Callable[[Callable[[int], None]], None]:
    """What the child does from step `first` on; it tells each step once it is durable."""

    def work(tell: Callable[[int], None]) -> None:
        with Store(home, key=KEY) as store:
            learned = learned_of(store, first // STEPS)
            for number in range(first, 1_000_000):
                do(store, learned, number)
                tell(number)

    return work


def check(home: Path, told: int) -> int:
    """What a killed child left is what all steps up to `told`, or up to one more, make; gives the first step not done."""
    with Store(home, key=KEY) as store:
        learned = learned_of(store, (told + 1) // STEPS)
        topics = learned.asked_topics()
        signals = learned.signals()
        waiting = [key for key in (one["id"] for one in learned.document()["open_suggestions"])]
        # A step that leaves a trace of itself tells how far it came: offers wait, signals are noted, topics are kept.
        done = max(told + 1, 0)
        turn, step = divmod(done, STEPS)
        traces = {0: keys(turn)[0] in waiting, 1: len(signals) == turn + 1, 2: f"topic-{turn}" in topics}
        done += traces[step]
        turns = [(done + STEPS - 1 - at) // STEPS for at in range(STEPS)]
        offered, reacted, answered = turns
        assert [signal.item for signal in signals] == [f"item-{keys(one)[0]}" for one in range(reacted)]
        assert set(topics) == {f"topic-{one}" for one in range(answered)}
        assert sorted(waiting) == (keys(offered - 1) if offered > reacted else [])
        kept = learned.outcomes()
        assert len(kept) == min(MOST_OUTCOMES, 3 * reacted + answered)
        for outcome in kept:
            turn = int(outcome.at_s - START_S) if not outcome.item else int(outcome.item[5:11])
            assert outcome.item == "" or np.allclose(
                outcome.features, candidates(turn)[int(outcome.item[-1])], atol=1e-3
            )
        shown = Elicitor()
        for one in range(answered):
            shown.asked(START_S + one)
            shown.outcome(skipped=False)
        if answered:
            assert learned.elicitor.document() == shown.document()
        # The posterior that is made anew is the one that the outcomes make.
        bandit = learned.bandit(PRIOR, np.random.default_rng(0))
        assert np.isfinite(bandit.mean).all()
        if kept:
            assert not np.allclose(bandit.mean, PRIOR.mean)
    return done


def kill_often(home: Path, kills: int, seed: int) -> int:
    with Store(home, key=KEY) as store:
        Consent(store, lambda: START_S).grant(PERSONAL)
    generator, done = random.Random(seed), 0
    for _ in range(kills):
        child = Child(talking(home, done))
        telling = child.told()
        last = next(telling)
        time.sleep(generator.uniform(0.0, 0.02))
        child.kill()
        last = max([last, *telling])
        assert child.killed()
        done = check(home, last)
    return done


def test_kills_over_turns_and_reactions_keep_all_that_was_acknowledged(tmp_path: Path) -> None:
    assert kill_often(tmp_path / "home", kills=4, seed=1) >= 4


@pytest.mark.deep
def test_many_kills_over_turns_and_reactions(tmp_path: Path) -> None:
    assert kill_often(tmp_path / "home", kills=50, seed=2) >= 50
