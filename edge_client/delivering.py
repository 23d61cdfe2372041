"""What the assistant says by itself: planned elsewhere, kept here, said at most once, by a channel and at a moment
that suit the user.

The policy is pure (decide/delivery.py, receptive_hours.py, delivery_caps.py); this room has the store, the clock and
the app's hooks. A message is kept as delivered *before* the app is told: whoever is killed in between has not shown
it, and will not show it twice.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from edge_client.decide.delivery import HOUR_S, Candidate, Choice, Moment, Worth, choose, hour_of_week
from edge_client.decide.delivery_caps import DAY_S, Caps, History, scopes_of
from edge_client.decide.follow_ups import FollowUp, Topic
from edge_client.decide.receptive_hours import OUTCOMES, FloatArray, ReceptiveHours
from edge_client.delivery_hooks import Delivered, Hook, Hooks
from edge_client.delivery_memory import Memory, Planned, Sent, checked_follow_up
from edge_client.delivery_situation import Situation, checked
from edge_client.delivery_wishes import DeliveryWishes
from edge_client.know.consent import Consent
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from edge_client.platform import fault_point
from shared_models.errors import ConfigError, DecisionError, InputError, StoreWriteError
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.answer.follow_up_words import Said
    from edge_client.decide.follow_up_facts import FactsSource

OUTCOME_WINDOW_S: Mapping[str, float] = {"chat": 6 * HOUR_S, "card": 3 * DAY_S, "notification": DAY_S}
"""Silence for so long is `ignored`."""
MOST_PER_TICK = 5
_AFTER: Mapping[str, tuple[str, ...]] = {
    "": OUTCOMES,
    "lost": OUTCOMES,
    "ignored": ("opened", "acted", "dismissed", "disabled"),
    "opened": ("acted", "disabled"),
    "acted": ("disabled",),
    "dismissed": ("disabled",),
    "disabled": (),
}
"""An outcome -> those that may follow it."""

_log = logging.getLogger(__name__)


class Delivering(DeliveryWishes):
    """Deliveries of one store. Thread-safe; the app's code runs outside the store's lock."""

    def __init__(
        self,
        store: Store,
        consent: Consent,
        profile: Profile,
        clock: Callable[[], float],
        *,
        caps: Caps | None = None,
        worth: Worth | None = None,
        prior: FloatArray | None = None,
        tone: Literal["casual", "formal"] = "casual",
    ) -> None:
        """`prior`: [168], attention of a population by hour of the week; None is the one that ships."""
        super().__init__(store, Memory(store, prior), clock)
        self._consent = consent
        self._caps, self._worth, self._tone = caps or Caps(), worth or Worth(), tone
        self._prior = prior
        self._hooks = Hooks()
        self._facts: FactsSource | None = None
        self._situation = Situation(profile)

    # -- what the app does ----------------------------------------------------------------------------------------

    def register(self, channel: str, hook: Hook, *, ready: Callable[[], bool] | None = None) -> None:
        """`hook(delivered)` shows a message by `channel` (chat, card, notification); without a hook it is never chosen.

        It has five seconds; it may raise and hang, the message counts as delivered all the same. `ready`: whether
        something can be shown now, asked before each choice. A later hook replaces an earlier one. Raises ConfigError.
        """
        self._hooks.register(channel, hook, ready)

    def unregister(self, channel: str) -> bool:
        """The app cannot show this any more; True if it could."""
        return self._hooks.unregister(channel)

    def on_delivered(self, listener: Hook) -> Callable[[], None]:
        """Tell `listener` after each delivery, whichever channel (a stream, a log); returns what ends that. Raises
        ConfigError.
        """
        return self._hooks.listen(listener)

    def set_caps(self, caps: Caps) -> None:
        """How often it may speak, until the app ends. Raises ConfigError."""
        if not isinstance(caps, Caps):
            raise ConfigError(f"expected Caps, got {type(caps).__name__}")
        self._caps = caps

    def facts_from(self, source: FactsSource) -> None:
        """Where facts are looked up when something is said; without a source nothing is. It must answer within five
        seconds.
        """
        self._facts = source

    def plan(self, follow_ups: Iterable[FollowUp], *, asked_for: bool = False) -> tuple[FollowUp, ...]:
        """Keep plans, durably; returns those that stand. Twice is fine; what was said once is not planned again.

        `asked_for`: the user wants to be told: said while the user objects to profiling, too. Nothing is kept without
        consent to personalisation, nor for what the user has stopped. Raises DecisionError, StoreWriteError.
        """
        new = [checked_follow_up(one) for one in follow_ups if _is_follow_up(one)]
        with self._store.lock:
            now_s, may = self._now(), self._permission()
            stopped = self._memory.stopped()
            new = [one for one in new if "all" not in stopped and one.topic not in stopped and one.expires_s > now_s]
            if not new or may == "nothing" or (may == "asked" and not asked_for):
                return ()
            with self._store.transaction():
                return tuple(self._memory.plan(new, asked_for, now_s))

    def drop(self, place: str, first: str | None = None, *, topic: Topic | None = None) -> int:
        """What was planned about a trip is void: it was cancelled or moved, or is not wanted. `first`: its first day, None
        for all days; `topic`: of that alone; how many went.
        """
        with self._store.transaction():
            plans, _ = self._memory.plans()
            gone = [
                plan.follow_up
                for plan in plans
                if plan.follow_up.place == place
                and first in (None, plan.follow_up.facts.get("first"))
                and topic in (None, plan.follow_up.topic)
            ]
            for one in gone:
                self._discard(one, "changed")
        return len(gone)

    def used(self) -> None:
        """The user is with the app: so that its hours are learned. Cheap; what cannot be kept is logged, never raised."""
        with self._store.lock:
            now_s = self._now()
            self._situation.last_use_s = now_s
            if self._permission() != "all":
                return
            hour = int(now_s // HOUR_S)
            table = self._memory.table
            if (table.get("use") or {}).get("hour") == hour:
                return
            try:
                with self._store.transaction():
                    hours = self._memory.hours()
                    hours.used(hour_of_week(Moment(now_s, self._situation.zone({}, now_s)).wall(now_s)), now_s)
                    self._memory.keep_hours(hours)
                    table.put("use", {"hour": hour})
            except StoreWriteError as error:
                _log.warning("an hour of use could not be kept: %s", type(error).__name__)

    def tick(self, *, shows: Collection[str] = (), context: Mapping[str, Any] | None = None) -> tuple[Delivered, ...]:
        """Say what is to be said now; returns it. Call it every few minutes and when the user comes; more often does
        no harm.

        `shows`: channels that the caller shows itself from what is returned. `context`: `in_use`, `do_not_disturb`,
        `driving` (True or False), `zone` (`Europe/Berlin`); what is missing is taken from the profile. Raises
        ConfigError, StoreClosedError, and StoreWriteError, within a transaction too: then nothing more was delivered.
        """
        shows, given = checked(shows, context)
        with self._store.lock:
            if self._store.in_transaction:
                raise StoreWriteError("a tick cannot be part of a transaction: what is delivered must be kept first")
            if not self._keep_house():
                return ()
        delivered: list[Delivered] = []
        passed: set[str] = set()
        while len(delivered) < MOST_PER_TICK and (ready := {*shows, *self._hooks.ready()}):
            with self._store.lock:
                picked = self._pick(ready, shows, given, passed)
            if picked is None:
                break
            plan, moment = picked[0], picked[1]
            passed.add(plan.follow_up.id)
            words = self._worded(plan.follow_up, moment)
            if words is None:
                continue
            message = self._mark(plan, words, ready, shows, given)
            if message is not None:
                fault_point("delivery.marked")
                delivered.append(self._carried(message, shows))
        return tuple(delivered)

    def outcome(self, delivery_id: str, outcome: str) -> bool:
        """What the user did with a message: opened, acted, dismissed, ignored, disabled. True if it was news; durable
        on return.

        `disabled` stops that channel until the user restores it. An id that is not known (any more) is False, not an
        error. Raises InputError for another outcome, StoreWriteError.
        """
        if outcome not in OUTCOMES or not isinstance(delivery_id, str):
            raise InputError(f"outcome is {str(outcome)[:40]!r}, expected one of {', '.join(OUTCOMES)}")
        with self._store.transaction():
            sent = self._memory.find(delivery_id)
            if sent is None or outcome not in _AFTER[sent.outcome]:
                return False
            self._settle(sent, outcome, self._now())
            if outcome == "disabled":
                self._stop(f"channel/{sent.message.channel}")
            return True

    # -- inside ---------------------------------------------------------------------------------------------------

    def _permission(self) -> Literal["all", "asked", "nothing"]:
        state = self._consent.state(PERSONALISATION.name)
        return "all" if state == "granted" else "asked" if state == "objected" else "nothing"

    def _keep_house(self) -> bool:
        """Silence becomes an outcome, what has expired goes; True if something may be due."""
        now_s, memory = self._now(), self._memory
        if self._permission() == "nothing" or not (memory.table.keys("plan/") or memory.table.keys("open/")):
            return False
        with self._store.transaction():
            plans = memory.sweep()
            history = memory.history(now_s)
            if history.turned_back(now_s):
                memory.keep_history(history.at(now_s))
            elapsed_s = history.at(now_s).elapsed_s
            for sent in memory.open():
                if elapsed_s - sent.elapsed_s >= OUTCOME_WINDOW_S[sent.message.channel]:
                    seen = sent.message.carried in ("shown", "hung")
                    self._settle(sent, "ignored" if seen else "lost", now_s)
            for plan in plans:
                if plan.follow_up.expires_s <= now_s:
                    self._discard(plan.follow_up, "expired")
        return any(plan.follow_up.due_s <= now_s < plan.follow_up.expires_s for plan in plans)

    def _pick(
        self, ready: Collection[str], shows: Collection[str], context: Mapping[str, Any], passed: Collection[str]
    ) -> tuple[Planned, Moment, Choice] | None:
        """What is said next, if anything."""
        now_s, may = self._now(), self._permission()
        stopped = self._memory.stopped()
        if may == "nothing" or "all" in stopped or self._memory.rest_left_s(now_s) > 0.0:
            return None
        history = self._memory.history(now_s)
        moment = self._situation.moment(context, shows, self._memory.quiet(), now_s)
        channels = {channel for channel in ready if f"channel/{channel}" not in stopped}
        if self._situation.known("notifications") is False:
            channels.discard("notification")
        # Learned hours are a profile: who objects is met with what is true of anybody.
        hours = self._memory.hours() if may == "all" else ReceptiveHours(self._prior)
        best: tuple[Planned, Moment, Choice] | None = None
        for plan in self._memory.plans()[0]:
            one = plan.follow_up
            if one.id in passed or one.topic in stopped or (may == "asked" and not plan.asked_for):
                continue
            candidate = Candidate(one.id, one.topic, one.due_s, one.expires_s, plan.asked_for)
            choice = choose(candidate, channels, moment, hours, self._waits(history, plan, now_s), self._worth)
            ahead = best is None or (plan.asked_for, choice.value) > (best[0].asked_for, best[2].value)
            if choice.action == "deliver" and ahead:
                best = plan, moment, choice
        return best

    def _waits(self, history: History, plan: Planned, now_s: float) -> Callable[[str], float]:
        def wait_s(channel: str) -> float:
            scopes = scopes_of(plan.follow_up.topic, channel, PERSONALISATION.name)
            return history.wait_s(self._caps, scopes, now_s, back_off=not plan.asked_for)

        return wait_s

    def _worded(self, one: FollowUp, moment: Moment) -> Said | None:
        """The words, from facts as they are now; a plan whose facts are gone is dropped."""
        from edge_client.answer.follow_up_words import follow_up_words
        from edge_client.decide.follow_up_facts import FollowUpFacts

        source, language = self._facts, self._situation.language
        if source is None:
            return None
        answered, facts = self._hooks.ask(lambda: source(one, language, moment.now_s))
        if not answered or not isinstance(facts, FollowUpFacts | None):
            return None
        if facts is None:
            with self._store.transaction():
                self._discard(one, "changed")
            return None
        today = moment.wall(moment.now_s).date()
        return follow_up_words(one.topic, facts, language, today, tone=self._tone, seed=len(one.id))

    def _mark(
        self, plan: Planned, words: Said, ready: Collection[str], shows: Collection[str], context: Mapping[str, Any]
    ) -> Delivered | None:
        """Keep it as delivered, if all that allowed it still holds."""
        with self._store.lock:
            others = {other.follow_up.id for other in self._memory.plans()[0]} - {plan.follow_up.id}
            picked = self._pick(ready, shows, context, others)
            if picked is None or picked[0] != plan:
                return None
            moment, choice, one = picked[1], picked[2], plan.follow_up
            channel = choice.channel
            assert channel is not None
            now_s = moment.now_s
            said = words.title, words.text, words.why, words.language
            message = Delivered(secrets.token_hex(8), one.id, one.topic, one.place, channel, *said, now_s)
            history = self._memory.history(now_s).with_delivery(
                scopes_of(one.topic, channel, PERSONALISATION.name), now_s
            )
            chosen = channel == "notification" and not moment.in_use
            hour = hour_of_week(moment.wall(now_s)) if chosen else None
            sent = Sent(message, history.elapsed_s, hour, self._permission() == "all")
            with self._store.transaction():
                self._memory.mark(sent, one, history)
            return message

    def _carried(self, message: Delivered, shows: Collection[str]) -> Delivered:
        how = "shown" if message.channel in shows else self._hooks.carry(message)
        fault_point("delivery.carried")
        try:
            with self._store.transaction():
                self._memory.carried(message.id, how)
        except StoreWriteError as error:
            # It stays `marked`: delivered, and silence will not be taken for a no.
            _log.warning("how a delivery went could not be kept: %s", type(error).__name__)
        message = replace(message, carried=how)
        self._hooks.tell(message)
        return message

    def _settle(self, sent: Sent, outcome: str, now_s: float) -> None:
        before, message = sent.outcome, sent.message
        self._memory.settle(sent, outcome)
        if outcome == "lost":
            return
        scopes = scopes_of(message.topic, message.channel, PERSONALISATION.name)
        self._memory.keep_history(self._memory.history(now_s).after(scopes, outcome))
        if sent.learns and self._permission() == "all":
            hours = self._memory.hours()
            if before in ("", "lost", "ignored"):
                hours.learn(message.channel, message.topic, outcome, now_s, sent.hour)
            else:
                hours.corrected(message.channel, outcome, now_s)
            self._memory.keep_hours(hours)

    def rest(self) -> None:
        """The purpose's key is about to go, and with it what the caps remember: nothing is said for their longest window.

        The owner calls it within a withdrawal of personalisation.
        """
        if self._memory.table.keys("said/"):
            self._memory.rest(self._now())


def _is_follow_up(value: object) -> bool:
    if not isinstance(value, FollowUp):
        raise DecisionError(f"expected a FollowUp, got {type(value).__name__}")
    return True
