"""What the device knows of a user's taste, brought to bear on suggestions: signals, profile, item space and policy of one client.

It joins decide/ with the rooms that remember. Without consent to personalisation nothing of the user is read here and nothing is
learned; suggestions are then everybody's. The owner holds the store's lock.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_client.bundles import ActiveBundle
from edge_client.decide.event_signals import VERDICTS_OF, names_of_events, signal_of
from edge_client.decide.learned import Learned
from edge_client.decide.preference import DAY_S, Signal, fold_in, learn_strengths
from edge_client.decide.suggesting import Choices, Personal, Suggester, Surroundings, scores_of_items
from edge_client.decide.travel import Visit
from edge_client.decide.travel_trip import Known, Wish, known_of
from edge_client.held_models import HeldModels
from edge_client.know.profile import Profile
from shared_models.errors import StoreWriteError
from shared_models.rules.items import denied_items
from shared_models.travel.action_features import OwnHistory

if TYPE_CHECKING:
    from edge_client.decide.bandit import Bandit
    from edge_client.know.capture import Capture
    from edge_client.know.triggers import Firing
    from shared_models.rules.ruleset import Rule
    from shared_models.travel.catalogue import Array, Catalogue

_LATELY_S = 30 * DAY_S
_ATTRIBUTES = ("home_city", "home_airport", "trip_budget", "likes", "interests")
_NEWCOMER_SIGNALS = 3
"""Who has given fewer is a newcomer."""
_WET = ("rain", "snow", "storm")
_log = logging.getLogger(__name__)


class _Heard(NamedTuple):
    """What a captured event says; None if it is no signal."""

    signal: Signal | None
    expires_s: float


class Suggestions:
    """The personal side of suggestions of one client."""

    def __init__(
        self,
        learned: Learned,
        held: HeldModels,
        profile: Profile,
        capture: Callable[[], Capture],
        clock: Callable[[], float],
        random: np.random.Generator,
    ) -> None:
        self.learned = learned
        self._held, self._profile, self._capture, self._clock, self._random = held, profile, capture, clock, random
        self._suggester: tuple[ActiveBundle, Suggester | None] | None = None
        self.denied: Mapping[str, Rule] = {}
        """Item id -> the rule of the bundle in use that denies it."""
        self._values: dict[str, Any] | None = None
        self.drop()

    def drop(self) -> None:
        """Forget what was derived from the user's data; it is derived again when it may be used."""
        self._heard: dict[str, _Heard] | None = None
        """Key of an event -> what it says, oldest first."""
        self._standing: Hashable = None
        """As of which `_heard` holds: see Capture.standing."""
        self._taste: tuple[Any, Personal] | None = None

    def suggester(self, bundle: ActiveBundle) -> Suggester | None:
        """For the bundle in use; None if it brings no catalogue."""
        if self._suggester is None or self._suggester[0] is not bundle:
            catalogue = self._held.catalogue(bundle)
            made = None
            if catalogue is not None:
                made = Suggester(catalogue, prior=self._held.bandit_prior(bundle), feed=self._held.feed(bundle))
            self.denied = denied_items(bundle.rules, catalogue) if catalogue is not None else {}
            self._suggester = (bundle, made)
            self.drop()
        return self._suggester[1]

    def choose(self, bundle: ActiveBundle, suggester: Suggester, wish: Wish, turn: int) -> tuple[Choices, Bandit]:
        """What to suggest now, and the policy that chose; never what a rule denies. Raises DecisionError."""
        bandit = self.learned.bandit(suggester.prior, self._random)
        signals = self.signals(suggester.catalogue)
        choices = suggester.choose(
            wish,
            bandit,
            around=self._around(turn, suggester, signals),
            personal=self._personal(bundle, suggester.catalogue, signals),
            forbidden=self.denied,
            now_s=float(self._clock()),
        )
        return choices, bandit

    # -- the user ---------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """What the profile says, if it may be used now and its schema has the attribute."""
        if not self.learned.allowed:
            return None
        if self._values is not None and name in self._values:
            return self._values[name]
        found = self._profile.get(name)
        value = None if found is None else found.value
        if self._values is not None:
            self._values[name] = value
        return value

    @contextlib.contextmanager
    def one_turn(self) -> Iterator[None]:
        """Consent and profile are looked up once. The owner holds the store's lock all the while."""
        self._values = {}
        try:
            with self.learned.one_turn():
                yield
        finally:
            self._values = None

    def known(self, bundle: ActiveBundle) -> Known:
        """What the profile adds to a wish."""
        if not self.learned.allowed:
            return Known()
        gazetteer = self._held.gazetteer(bundle)
        return known_of(
            {name: self.value(name) for name in _ATTRIBUTES},
            lambda name: next(iter(gazetteer.named(name)), None) if gazetteer is not None else None,
        )

    def now(self) -> datetime:
        """The user's own time: by the profile if it may be used, else by the system's clock."""
        now_s, offset_h = float(self._clock()), self.value("utc_offset_h")
        try:
            if isinstance(offset_h, int):
                return datetime.fromtimestamp(now_s, UTC) + timedelta(hours=offset_h)
            return datetime.fromtimestamp(now_s).astimezone()
        except (OverflowError, OSError, ValueError):
            # A clock that no calendar has: an answer matters more than its date.
            return datetime.now(UTC)

    def _around(self, turn: int, suggester: Suggester, signals: Sequence[Signal]) -> Surroundings:
        if not self.learned.allowed:
            return Surroundings(turn)
        now, budget = self.now(), self.value("trip_budget")
        return Surroundings(
            turn,
            now.hour,
            now.weekday() >= 5,
            self.value("device_type") == "phone",
            self.value("weather") in _WET,
            newcomer=len(signals) < _NEWCOMER_SIGNALS,
            saver=isinstance(budget, int | float) and budget < suggester.usual_price,
        )

    def _personal(self, bundle: ActiveBundle, catalogue: Catalogue, signals: Sequence[Signal]) -> Personal:
        if not self.learned.allowed:
            return Personal()
        now_s = float(self._clock())
        # A day makes signals older; within one the taste is the same. Events come, and among those that came they only expire.
        heard = (self._standing, len(self._heard or ()), len(signals))
        state = (self.learned.signals_version, heard, int(now_s / DAY_S))
        if self._taste is None or self._taste[0] != state:
            visits = _visits(signals, now_s)
            preference = self._preference(bundle, catalogue, signals, now_s)
            evident = bool(signals) or bool(self.learned.outcomes())
            own = _own_history(signals, catalogue, now_s)
            self._taste = (state, Personal(preference, visits, own, None, evident))
        found = self._taste[1]
        evident = found.evident or bool(self.learned.outcomes())
        return Personal(found.preference, found.visits, found.own, self.learned.exposure, evident)

    def signals(self, catalogue: Catalogue) -> list[Signal]:
        """All that says what the user likes, said here or captured by the app; empty unless it may be used."""
        return [*self.learned.signals(), *self._events(catalogue)] if self.learned.allowed else []

    def _preference(
        self, bundle: ActiveBundle, catalogue: Catalogue, signals: Sequence[Signal], now_s: float
    ) -> Array | None:
        space = self._held.item_space(bundle)
        if space is None:
            return None
        taste = fold_in(space, signals, now_s, learn_strengths(signals))
        scores, rows = space.top(taste.history, taste.user, len(space.items))
        return scores_of_items(catalogue, [space.items[row] for row in rows], scores.astype(np.float64))

    # -- what the app tells -----------------------------------------------------------------------------------------

    def hear(self, firing: Firing) -> None:
        """An event was captured: it may be a signal, and the reward that a suggestion waits for."""
        if firing.event.name not in _EVENTS or self._suggester is None or self._suggester[1] is None:
            # Read from the store with the others when a suggestion is made.
            return
        if not self.learned.allowed:
            self._heard = None
            return
        # It may have been erased, or its consent withdrawn, since it was kept.
        kept = self._capture().still_usable(firing.event)
        if kept is None or (self._heard is not None and kept.event.key in self._heard):
            return
        catalogue = self._suggester[1].catalogue
        signal = signal_of(kept.event, lambda name: item_named(catalogue, name))
        if self._heard is not None:
            self._heard[kept.event.key] = _Heard(signal, kept.expires_s)
        if signal is not None:
            self._reward(signal)

    def _reward(self, signal: Signal) -> None:
        verdict = VERDICTS_OF.get(signal.kind)
        if verdict is None and signal.kind == "rating" and signal.value:
            verdict = "up" if signal.value > 0 else "down"
        if verdict is None:
            return
        waiting = [key for key, at_s in self.learned.waiting_for(signal.item).items() if at_s <= signal.time_s]
        try:
            if waiting:
                self.learned.settle(waiting[-1], verdict)
        except StoreWriteError as error:
            _log.warning("what came of a suggestion could not be kept: %s", type(error).__name__)

    def _events(self, catalogue: Catalogue) -> Sequence[Signal]:
        """Signals of captured events that may be used now, oldest first: read anew when one was erased or a consent changed."""
        capture = self._capture()
        standing = capture.standing(_EVENTS)
        if self._heard is None or self._standing != standing:
            heard = {
                one.event.key: _Heard(signal_of(one.event, lambda name: item_named(catalogue, name)), one.expires_s)
                for one in capture.usable(_EVENTS)
            }
            self._heard, self._standing = heard, standing
            # What came in before anything was suggested in this process may be what suggestions of an earlier one wait for.
            for signal, _ in heard.values():
                if signal is not None:
                    self._reward(signal)
        now_s = float(self._clock())
        return [one.signal for one in (self._heard or {}).values() if one.signal is not None and one.expires_s > now_s]


def item_named(catalogue: Catalogue, name: str) -> str | None:
    """The item that an app means: by its id, or by its name in any language."""
    if name in catalogue.rows:
        return name
    place = catalogue.named(name)
    return None if place is None else place.id


def _visits(signals: Sequence[Signal], now_s: float) -> list[Visit]:
    """Where the user has been, as far as is known: what was booked or chosen more than a day ago, and whether it was liked."""
    liked: dict[str, bool | None] = {}
    for signal in signals:
        if signal.kind == "chosen" and now_s - signal.time_s > DAY_S:
            liked.setdefault(signal.item, None)
        elif signal.item in liked and (signal.kind in ("like", "dislike") or signal.value):
            liked[signal.item] = signal.kind == "like" or (signal.value or 0.0) > 0.0
    return [Visit(item, word) for item, word in list(liked.items())[-500:]]


def _own_history(signals: Sequence[Signal], catalogue: Catalogue, now_s: float) -> OwnHistory:
    """[n] each: how often a place was taken and refused, shrunk, and how lately it was."""
    count = len(catalogue)
    yes, no, lately = np.zeros(count), np.zeros(count), np.zeros(count)
    for signal in signals:
        row = catalogue.rows.get(signal.item)
        if row is None:
            continue
        for_it = signal.kind in ("chosen", "like", "save") or (signal.value or 0.0) > 0.0
        against = signal.kind in ("dislike", "dismiss") or (signal.value or 0.0) < 0.0
        yes[row] += for_it
        no[row] += against
        if signal.kind in ("chosen", "dismiss"):
            lately[row] = max(lately[row], 0.5 ** (max(0.0, now_s - signal.time_s) / _LATELY_S))
    return OwnHistory(yes / (yes + no + 1.0), no / (yes + no + 1.0), lately)


_EVENTS = frozenset(names_of_events())
