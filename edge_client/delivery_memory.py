"""What deliveries leave in the encrypted store: plans, what was said and what came of it, what was learned, and the
user's limits.

Plans and all that is learned stand under the purpose `personalisation` and go with it. What the user forbade (topics,
channels, quiet hours) has no purpose: a refusal must outlive a withdrawal. Whatever cannot be read is dropped and
counted; a history of deliveries that cannot be read counts as a full one. Everything here is called under the store's
lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from edge_client.decide.delivery import NIGHT
from edge_client.decide.delivery_caps import WEEK_S, History
from edge_client.decide.follow_ups import MOST_PENDING, FollowUp, merged
from edge_client.decide.receptive_hours import CHANNELS, OUTCOMES, FloatArray, ReceptiveHours
from edge_client.delivery_hooks import Carried, Delivered
from edge_client.know.store import Records, Store
from edge_client.share.schedule_rules import MOST_QUIET_HOURS, QuietHours
from shared_models.errors import ConfigError, DecisionError
from shared_models.purposes import PERSONALISATION

TABLE, SETTINGS = "delivery", "delivery-settings"
MOST_DONE, MOST_SAID = 300, 1000
"""Messages kept with their outcome; ids of plans that will not be said again."""
MOST_STORED_PLANS = 200
"""What lies in the store beyond this was not put there by this code, and is not even read."""
MOST_ID = 200
MOST_COUNT = 2**53
EVENTS = ("planned", "expired", "changed", "unreadable", "shown", "failed", "hung", "lost", *OUTCOMES)
"""What is counted. `lost`: the app may never have been told, for it was killed or failed; then silence says nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """One plan."""

    follow_up: FollowUp
    asked_for: bool = False


@dataclass(frozen=True)
class Sent:
    """One message that was delivered, and the conditions under which, for learning from what comes of it."""

    message: Delivered
    elapsed_s: float
    hour: int | None
    """Of the week, if its moment was chosen."""
    learns: bool
    """False if it was sent while the user objected to profiling."""
    outcome: str = ""

    def document(self) -> dict[str, Any]:
        return {**self.__dict__, "message": self.message.document()}

    @classmethod
    def from_document(cls, document: Any) -> Sent:
        """Raises DecisionError."""
        try:
            sent = cls(**{**document, "message": Delivered(**document["message"])})
            texts = [value for name, value in sent.message.document().items() if name != "at_s"]
            sound = (
                all(isinstance(text, str) for text in texts)
                and all(
                    type(value) in (int, float) and 0 <= value <= 1e13 for value in (sent.message.at_s, sent.elapsed_s)
                )
                and (sent.hour is None or (type(sent.hour) is int and 0 <= sent.hour < 168))
                and isinstance(sent.learns, bool)
                and sent.outcome in ("", "lost", *OUTCOMES)
                and sent.message.channel in CHANNELS
                and sent.message.carried in get_args(Carried)
            )
        except (KeyError, TypeError) as error:
            raise DecisionError(f"not a delivery: {str(error)[:100]}") from error
        if not sound:
            raise DecisionError("not a delivery: a field has the wrong type")
        return sent


class Memory:
    """The records of one store."""

    def __init__(self, store: Store, prior: FloatArray | None = None) -> None:
        self._store = store
        self._prior = prior

    @property
    def table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(TABLE, purpose=PERSONALISATION.name)

    @property
    def settings(self) -> Records:
        return self._store.table(SETTINGS)

    # -- plans ----------------------------------------------------------------------------------------------------

    def plans(self) -> tuple[list[Planned], list[str]]:
        """Plans that can be read, at most MOST_PENDING by due time, and the keys of what cannot or is too much."""
        keys = self.table.keys("plan/")
        found: dict[str, Planned] = {}
        spoilt = keys[MOST_STORED_PLANS:]
        for key in keys[:MOST_STORED_PLANS]:
            document = self.table.get(key) or {}
            try:
                follow_up = checked_follow_up(FollowUp.from_document(document.get("follow_up")))
                if key != f"plan/{follow_up.id}" or not isinstance(document.get("asked_for"), bool):
                    raise DecisionError("not a plan")
                found[key] = Planned(follow_up, document["asked_for"])
            except (DecisionError, TypeError, ValueError, OverflowError):
                spoilt.append(key)
        ranked = sorted(found.items(), key=lambda item: (item[1].follow_up.due_s, item[0]))
        return [plan for _, plan in ranked[:MOST_PENDING]], [*spoilt, *(key for key, _ in ranked[MOST_PENDING:])]

    def plan(self, new: Iterable[FollowUp], asked_for: bool, now_s: float) -> list[FollowUp]:
        """Add plans by the rules of `follow_ups.merged`; what was said once is not planned again. Returns those of
        `new` that stand.
        """
        table = self.table
        fresh = [one for one in new if f"said/{one.id}" not in table]
        known, spoilt = self.plans()
        wished = {plan.follow_up.id for plan in known if plan.asked_for} | {one.id for one in fresh if asked_for}
        kept = {one.id: one for one in merged([plan.follow_up for plan in known], fresh, now_s)}
        before = {plan.follow_up.id for plan in known}
        for key in (*spoilt, *(f"plan/{plan.follow_up.id}" for plan in known if plan.follow_up.id not in kept)):
            table.delete(key)
        for one in kept.values():
            document = {"follow_up": one.document(), "asked_for": one.id in wished}
            if table.get(f"plan/{one.id}") != document:
                table.put(f"plan/{one.id}", document)
            if one.id not in before:
                self.count(one.topic, "-", "planned")
        return [kept[one.id] for one in fresh if one.id in kept]

    def mark(self, sent: Sent, follow_up: FollowUp, history: History) -> None:
        """From here on it counts as delivered."""
        table = self.table
        table.delete(f"plan/{follow_up.id}")
        table.put(f"said/{follow_up.id}", {"expires_s": follow_up.expires_s})
        table.put(f"open/{sent.message.id}", sent.document())
        self.keep_history(history)
        _trim(table, "said/", MOST_SAID)

    # -- what was said --------------------------------------------------------------------------------------------

    def open(self) -> list[Sent]:
        """Messages without an outcome, oldest first."""
        return [sent for key in self.table.keys("open/") if (sent := self._sent(key)) is not None]

    def sweep(self) -> list[Planned]:
        """Erase and count plans and messages that cannot be read, or are too many; returns the plans that stay."""
        plans, spoilt = self.plans()
        spoilt += [key for key in self.table.keys("open/") if self._sent(key) is None]
        for key in spoilt:
            self.table.delete(key)
        if spoilt:
            self.count("-", "-", "unreadable", len(spoilt))
        return plans

    def done(self) -> list[Sent]:
        """Messages with their outcome, oldest first."""
        return [sent for key in self.table.keys("done/") if (sent := self._sent(key)) is not None]

    def find(self, delivery_id: str) -> Sent | None:
        return self._sent(f"open/{delivery_id}") or self._sent(f"done/{delivery_id}")

    def carried(self, delivery_id: str, how: Carried) -> None:
        """Note whether the app's hook took it."""
        for prefix in ("open/", "done/"):
            sent = self._sent(prefix + delivery_id)
            if sent is not None:
                self.table.put(
                    prefix + delivery_id, replace(sent, message=replace(sent.message, carried=how)).document()
                )
                self.count(sent.message.topic, sent.message.channel, how)

    def settle(self, sent: Sent, outcome: str) -> None:
        """Note what came of it."""
        table = self.table
        for prefix in ("open/", "done/"):
            table.delete(prefix + sent.message.id)
        table.put(f"done/{sent.message.id}", replace(sent, outcome=outcome).document())
        if sent.outcome:
            self.count(sent.message.topic, sent.message.channel, sent.outcome, -1)
        self.count(sent.message.topic, sent.message.channel, outcome)
        _trim(table, "done/", MOST_DONE)

    def count(self, topic: str, channel: str, event: str, by: int = 1) -> None:
        """`channel` is `-` for what happens to a plan."""
        key = f"count/{topic}/{channel}"
        counts = self._counts(key)
        counts[event] = max(0, counts.get(event, 0) + by)
        self.table.put(key, counts)

    def counters(self) -> dict[str, dict[str, int]]:
        """`topic/channel` -> event -> how often."""
        return {key.removeprefix("count/"): self._counts(key) for key in self.table.keys("count/")}

    def totals(self) -> dict[str, int]:
        """Event -> how often, over all topics and channels."""
        counters = self.counters().values()
        return {event: sum(counts.get(event, 0) for counts in counters) for event in EVENTS}

    def document(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        quiet = self.quiet()
        return {
            "pending": [{**plan.follow_up.document(), "asked_for": plan.asked_for} for plan in self.plans()[0]],
            "delivered": [
                {**sent.message.document(), "outcome": sent.outcome, "hour_of_week": sent.hour}
                for sent in (*self.done(), *self.open())
            ],
            "counters": self.counters(),
            "learned_hours": self.table.get("hours") or {},
            "history": self.table.get("history") or {},
            "stopped": self.stopped(),
            "quiet_hours": [str(hours) for hours in (NIGHT if quiet is None else quiet)],
            "quiet_hours_by_user": quiet is not None,
        }

    # -- what was learned -----------------------------------------------------------------------------------------

    def history(self, now_s: float) -> History:
        """The caps' memory. If it is lost although something was said, or cannot be read, it counts as full for a week."""
        document = self.table.get("history")
        try:
            if document is not None:
                return History.from_document(document)
        except DecisionError as error:
            _log.warning("the history of deliveries cannot be read: %s", type(error).__name__)
            document = {}
        if document is None and not self.table.keys("said/"):
            return History()
        self.rest(now_s)
        self.keep_history(History().at(now_s))
        return History().at(now_s)

    def keep_history(self, history: History) -> None:
        self.table.put("history", history.document())

    def hours(self) -> ReceptiveHours:
        """Beliefs; those of the population if what was kept cannot be read."""
        document = self.table.get("hours")
        try:
            return (
                ReceptiveHours(self._prior) if document is None else ReceptiveHours.from_document(document, self._prior)
            )
        except DecisionError as error:
            _log.warning("what was learned about hours cannot be read: %s", type(error).__name__)
            return ReceptiveHours(self._prior)

    def keep_hours(self, hours: ReceptiveHours) -> None:
        self.table.put("hours", hours.document())

    # -- what the user forbade ------------------------------------------------------------------------------------

    def stopped(self) -> list[str]:
        """`all`, topics, and channels as `channel/…`, that the user has stopped."""
        return [key.removeprefix("stop/") for key in self.settings.keys("stop/")]

    def quiet(self) -> tuple[QuietHours, ...] | None:
        """The user's quiet hours; None if the user has named none. What cannot be read is quiet around the clock."""
        document = self.settings.get("quiet")
        if document is None:
            return None
        try:
            return tuple(QuietHours.parse(text) for text in document["hours"])[:MOST_QUIET_HOURS]
        except (ConfigError, KeyError, TypeError):
            return (QuietHours.parse("00:00-12:00"), QuietHours.parse("12:00-00:00"))

    def rest(self, now_s: float) -> None:
        """Say nothing for the longest window of the caps: what they remembered is about to be, or was, lost."""
        self.settings.put("rest", {"seen_s": now_s, "left_s": WEEK_S})

    def rest_left_s(self, now_s: float) -> float:
        """Seconds of rest that are left. It passes with the clock's forward moves, like the history."""
        document = self.settings.get("rest")
        if document is None:
            return 0.0
        seen_s, left_s = (document.get(name, -1.0) for name in ("seen_s", "left_s"))
        sound = all(type(value) in (int, float) and 0 <= value <= 1e13 for value in (seen_s, left_s))
        if not sound or now_s < seen_s:
            left_s = min(left_s, WEEK_S) if sound else WEEK_S
            self.settings.put("rest", {"seen_s": now_s, "left_s": left_s})
            return float(left_s)
        left_s -= now_s - seen_s
        if left_s <= 0.0:
            self.settings.delete("rest")
        return float(max(0.0, left_s))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _sent(self, key: str) -> Sent | None:
        document = self.table.get(key)
        try:
            return None if document is None else Sent.from_document(document)
        except DecisionError:
            return None

    def _counts(self, key: str) -> dict[str, int]:
        kept: Mapping[str, Any] = self.table.get(key) or {}
        return {
            name: value
            for name, value in kept.items()
            if name in EVENTS and type(value) is int and 0 <= value < MOST_COUNT
        }


def checked_follow_up(follow_up: FollowUp) -> FollowUp:
    """`follow_up` if it is small and its facts are texts. Raises DecisionError."""
    facts = follow_up.facts
    texts = [follow_up.id, follow_up.place, *facts, *facts.values()]
    if len(facts) > 16 or not all(isinstance(text, str) and len(text) <= MOST_ID for text in texts):
        raise DecisionError("a follow-up has at most 16 facts, and its texts at most 200 characters")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise DecisionError("a follow-up holds half a character (a lone surrogate)") from error
    return follow_up


def _trim(table: Records, prefix: str, most: int) -> None:
    keys = table.keys(prefix)
    for key in keys[: max(0, len(keys) - most)]:
        table.delete(key)
