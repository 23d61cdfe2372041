"""What a device has learned about its user's taste: signals, outcomes of suggestions, what was shown, what was asked. In the
encrypted store, with consent to personalisation only; withdrawing it destroys all of this with the purpose's key.

The bandit's posterior is not kept: it is the prior and the kept outcomes, taken in again when the process starts or a new
prior arrives, so that nothing that was learned is tied to one release. Old outcomes count less (half after HALF_LIFE_S).
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.diversity import Exposure
from edge_client.decide.drift import Unrest
from edge_client.decide.elicitation import AskingLimits, Elicitor
from edge_client.decide.learned_records import (
    Open,
    Outcome,
    feature_list,
    open_record,
    outcome_record,
    read_open,
    read_outcome,
    read_signal,
)
from edge_client.decide.pending_rewards import Pending, PendingRewards
from edge_client.decide.preference import DAY_S, MAX_SIGNALS, STRENGTHS, Signal
from edge_client.improve.drift_watch import DriftWatch
from edge_client.know.consent import Consent
from edge_client.know.store import Records, Store
from shared_models.bandit_prior import BanditPrior, FloatArray
from shared_models.errors import DecisionError, StoreWriteError
from shared_models.purposes import PERSONALISATION

SIGNALS, OUTCOMES, PENDING, STATE = "taste-signals", "suggestion-outcomes", "suggestions-open", "suggestion-state"
TABLES = (SIGNALS, OUTCOMES, PENDING, STATE)
MOST_SIGNALS = 2000
MOST_OUTCOMES = 500
WINDOW_S = 14 * 86_400.0
"""How long after a suggestion a booking still counts for it."""
HALF_LIFE_S = 270 * 86_400.0
REWARDS: Mapping[str, float] = {"chosen": 1.0, "up": 0.8, "dismissed": 0.15, "down": 0.0}
PASSED_OVER = 0.25
"""Of what stood beside the one that was chosen, and of what was refused with a reason, which speaks for itself."""
PASSED_OVER_NOISE = 8.0
"""Both are weak words."""
ANSWER_NOISE = 0.5
"""An answer to a question is surer than what came of one suggestion."""
EXPLORATION = Exploration("thompson", spread=0.15, floor=0.02)
"""As benchmarks/travelers.py measures it."""
FADED = 0.01
"""A signal or an outcome that weighs less of what it once did says nothing any more, and goes."""
_log = logging.getLogger(__name__)


class Learned:
    """The learned state of one store. The owner holds the store's lock."""

    def __init__(
        self,
        store: Store,
        consent: Consent,
        clock: Callable[[], float],
        asking: AskingLimits | None = None,
        watch: DriftWatch | None = None,
    ) -> None:
        """`watch` is told how far outcomes were from what was expected, and says how restless the taste is."""
        self._watch = watch
        self._store, self._consent, self._clock = store, consent, clock
        self._asking = asking
        self._allowed_now: bool | None = None
        consent.when_withdrawn(PERSONALISATION.name, self.drop)
        store.when_rolled_back(self.drop)
        self.drop()

    def drop(self) -> None:
        """Forget what is held in memory; what is kept is read again when it may be used."""
        self._signals: list[Signal] | None = None
        self._open: dict[str, Open] | None = None
        self._waiting = PendingRewards(window_s=WINDOW_S)
        self._outcomes: list[Outcome] | None = None
        self._exposure: Exposure | None = None
        self._elicitor: Elicitor | None = None
        self._bandit: tuple[BanditPrior, Bandit] | None = None
        self.signals_version = getattr(self, "signals_version", 0) + 1
        """Grows whenever the signals change: a taste that was folded in from fewer is out of date."""

    @property
    def allowed(self) -> bool:
        """Whether anything may be learned or used now: consent, no restriction, no objection to profiling."""
        known = self._allowed_now
        return self._consent.is_granted(PERSONALISATION.name) if known is None else known

    @contextlib.contextmanager
    def one_turn(self) -> Iterator[None]:
        """Ask for the consent once: nobody can change it while the owner holds the store's lock."""
        self._allowed_now = self._consent.is_granted(PERSONALISATION.name)
        try:
            yield
        finally:
            self._allowed_now = None

    # -- signals --------------------------------------------------------------------------------------------------

    def signals(self) -> Sequence[Signal]:
        """Kept signals, oldest first; empty unless `allowed`."""
        if not self.allowed:
            return ()
        if self._signals is None:
            self._signals = [one for one in map(read_signal, self._table(SIGNALS).entries()) if one is not None]
        return self._signals

    def note(self, signal: Signal) -> None:
        """Keep one signal, durably. Raises StoreWriteError."""
        if not self.allowed:
            return
        known = list(self.signals())
        with self._writing():
            table = self._table(SIGNALS)
            table.append({key: value for key, value in signal.__dict__.items() if value is not None})
            _trim(table, MOST_SIGNALS)
        self._signals = [*known, signal][-min(MOST_SIGNALS, MAX_SIGNALS) :]
        self.signals_version += 1

    # -- suggestions and what comes of them -----------------------------------------------------------------------

    def bandit(self, prior: BanditPrior, random: np.random.Generator) -> Bandit:
        """The policy: from the prior alone, or with all that was learned if that may be used."""
        if not self.allowed:
            return Bandit(prior, EXPLORATION, random=random)
        if self._bandit is None or self._bandit[0] is not prior:
            unrest = Unrest() if self._watch is None else self._watch.unrest
            half_life_s = unrest.half_life_s(HALF_LIFE_S)
            bandit = Bandit(prior, unrest.exploration(EXPLORATION), random=random, half_life_s=half_life_s)
            now_s = float(self._clock())
            for outcome in self.outcomes():
                if len(outcome.features) == len(prior.features):
                    _teach(bandit, outcome, now_s, half_life_s)
            self._bandit = (prior, bandit)
        return self._bandit[1]

    def offer(self, offered: Mapping[str, Open]) -> None:
        """Wait for what comes of the suggestions of one list, by their keys, durably. Raises StoreWriteError."""
        if not self.allowed:
            return
        waiting = self._opened()
        with self._writing():
            self._expire()
            for key, one in offered.items():
                self._table(PENDING).put(key, open_record(one))
        for key, one in offered.items():
            row = one.candidates[one.chosen]
            self._waiting.add(Pending(key, row, one.propensity, one.at_s, one.group))
            waiting[key] = one

    def waiting(self, key: str) -> Open | None:
        """The suggestion called `key`, if it still waits."""
        return self._opened().get(key) if self.allowed else None

    def waiting_for(self, item: str) -> dict[str, float]:
        """Suggestions of `item` that still wait -> when they were made, oldest first."""
        return {key: one.at_s for key, one in self._opened().items() if one.item == item} if self.allowed else {}

    def settle(self, key: str, verdict: str) -> bool:
        """Take in what came of a suggestion, durably; False if it does not wait (any more).

        `chosen` settles its whole list; `passed` is what was passed over or refused with a reason.

        Raises DecisionError for a verdict that does not exist, StoreWriteError.
        """
        if verdict not in REWARDS and verdict != "passed":
            raise DecisionError(f"verdict is {str(verdict)[:40]!r}, expected passed, {', '.join(REWARDS)}")
        if not self.allowed or (offered := self._opened().get(key)) is None:
            return False
        now_s = float(self._clock())
        with self._writing():
            noise = PASSED_OVER_NOISE if verdict == "passed" else 1.0
            found = self._settled(key, REWARDS.get(verdict, PASSED_OVER), noise, now_s)
            if found and verdict == "chosen" and offered.group:
                beside = [other for other, one in self._opened().items() if one.group == offered.group]
                for other in beside:
                    self._settled(other, PASSED_OVER, PASSED_OVER_NOISE, now_s)
        return found

    def answer(self, features: FloatArray, value: float) -> None:
        """Take in the answer to a question about `features` [d], on the scale of rewards.

        Raises DecisionError, StoreWriteError.
        """
        if self.allowed:
            nobody = np.zeros((0, len(features)))
            now_s = float(self._clock())
            self._keep(Outcome(features, float(value), 1.0, nobody, 0, now_s, ANSWER_NOISE, ""))

    def outcomes(self) -> Sequence[Outcome]:
        """Kept outcomes, oldest first; empty unless `allowed`."""
        if not self.allowed:
            return ()
        if self._outcomes is None:
            self._outcomes = [one for one in map(read_outcome, self._table(OUTCOMES).entries()) if one is not None]
        return self._outcomes

    def _settled(self, key: str, reward: float, noise: float, now_s: float) -> bool:
        offered = self._opened().pop(key, None)
        self._table(PENDING).delete(key)
        settled = self._waiting.reward(key, reward, now_s)
        if offered is None or settled is None:
            return False
        row = settled.decision.features
        self._keep(
            Outcome(row, reward, offered.propensity, offered.candidates, offered.chosen, now_s, noise, offered.item)
        )
        return True

    def _keep(self, outcome: Outcome) -> None:
        known = list(self.outcomes())
        with self._writing():
            table = self._table(OUTCOMES)
            table.append(outcome_record(outcome))
            _trim(table, MOST_OUTCOMES)
        self._outcomes = [*known, outcome][-MOST_OUTCOMES:]
        if self._bandit is not None and len(self._bandit[0].features) == len(outcome.features):
            bandit = self._bandit[1]
            missed = abs(outcome.reward - float(outcome.features @ bandit.mean))
            _teach(bandit, outcome, outcome.at_s)
            if self._watch is not None and outcome.noise <= 1.0:
                scale = bandit.prior.reward_high - bandit.prior.reward_low
                if self._watch.observe("preference", min(missed / scale, 1.0)):
                    # Made anew from the same outcomes when it is next needed: more is tried, and old outcomes weigh less.
                    self._bandit = None

    def _opened(self) -> dict[str, Open]:
        if self._open is None:
            self._open, self._waiting = {}, PendingRewards(window_s=WINDOW_S)
            for key, record in self._table(PENDING).items():
                offered = read_open(record)
                if offered is not None:
                    row = offered.candidates[offered.chosen]
                    self._waiting.add(Pending(key, row, offered.propensity, offered.at_s, offered.group))
                    self._open[key] = offered
        return self._open

    def _expire(self) -> None:
        """A reward that never came is missing, and no zero."""
        now_s = float(self._clock())
        self._waiting.expire(now_s)
        late = [key for key, one in self._opened().items() if now_s - one.at_s > WINDOW_S]
        for key in late:
            del self._opened()[key]
            self._table(PENDING).delete(key)

    def refold(self) -> dict[str, int]:
        """Let go of what is too old to say anything, and let the rest be as old as it is now: for once a night.

        Signals and outcomes that weigh less than FADED, and suggestions that nothing came of. Gives how many of each went.
        Raises StoreWriteError.
        """
        now_s, gone = float(self._clock()), {"signals": 0, "outcomes": 0, "open_suggestions": len(self._opened())}
        with self._writing():
            for key, record in self._table(SIGNALS).items():
                signal = read_signal(record)
                if signal is None or _faded(now_s - signal.time_s, DAY_S * STRENGTHS[signal.kind].half_life_days):
                    gone["signals"] += self._table(SIGNALS).delete(key)
            for key, record in self._table(OUTCOMES).items():
                outcome = read_outcome(record)
                if outcome is None or _faded(now_s - outcome.at_s, HALF_LIFE_S):
                    gone["outcomes"] += self._table(OUTCOMES).delete(key)
            self._expire()
            gone["open_suggestions"] -= len(self._opened())
        self._signals = self._outcomes = self._bandit = None
        self.signals_version += 1
        return gone

    # -- what was shown and asked ---------------------------------------------------------------------------------

    @property
    def exposure(self) -> Exposure:
        """What was shown lately, by country."""
        if not self.allowed:
            return Exposure()
        if self._exposure is None:
            try:
                self._exposure = Exposure.from_document(self._table(STATE).get("exposure"))
            except DecisionError:
                self._exposure = Exposure()
        return self._exposure

    @property
    def elicitor(self) -> Elicitor:
        """How much was asked."""
        if not self.allowed:
            return Elicitor(self._asking)
        if self._elicitor is None:
            self._elicitor = Elicitor(self._asking)
            if (kept := self._table(STATE).get("elicitor")) is not None:
                try:
                    self._elicitor.restore(kept)
                except DecisionError as error:
                    _log.warning("how much was asked is not known any more: %s", error)
        return self._elicitor

    def asked_topics(self) -> dict[str, float]:
        """Topic -> when it was asked about or answered, Unix seconds."""
        kept = self._table(STATE).get("topics") if self.allowed else None
        return {str(name): float(at) for name, at in (kept or {}).items()}

    def keep_state(self, *, topic: str = "") -> None:
        """Write down what was shown and asked, durably. `topic`: was asked about now. Raises StoreWriteError."""
        if not self.allowed:
            return
        with self._writing():
            table = self._table(STATE)
            table.put("exposure", self.exposure.document())
            if topic or self._elicitor is not None:
                table.put("elicitor", self.elicitor.document())
            if topic:
                table.put("topics", {**self.asked_topics(), topic: float(self._clock())})

    # -- the user's rights ----------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """All that is kept, for the export and the privacy centre, as plain JSON: also while it may not be used."""
        return {
            "signals": self._table(SIGNALS).entries(),
            "outcomes": [
                {name: record[name] for name in ("item", "reward", "propensity", "at_s")}
                | {"features": feature_list(record)}
                for record in self._table(OUTCOMES).entries()
            ],
            "open_suggestions": [
                {"id": key, **{name: record[name] for name in ("item", "propensity", "at_s", "group")}}
                for key, record in self._table(PENDING).items()
            ],
            "state": dict(self._table(STATE).items()),
        }

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; if it fails, what is held in memory is what the disk has: at once if it is an inner one, too."""
        try:
            with self._store.transaction():
                yield
        except StoreWriteError:
            self.drop()
            raise

    def _table(self, name: str) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(name, purpose=PERSONALISATION.name)


def _faded(age_s: float, half_life_s: float) -> bool:
    return max(0.0, age_s) > half_life_s * math.log2(1.0 / FADED)


def _teach(bandit: Bandit, outcome: Outcome, now_s: float, half_life_s: float = HALF_LIFE_S) -> None:
    # An old outcome as a noisier one: what is forgotten by half weighs half.
    age = min(40.0, max(0.0, now_s - outcome.at_s) / half_life_s)
    noise = bandit.prior.noise_variance * outcome.noise * 2.0**age
    bandit.learn(outcome.features, outcome.reward, noise_variance=noise)


def _trim(table: Records, most: int) -> None:
    if len(table) > most:
        for key in table.oldest(len(table) - most):
            table.delete(key)
