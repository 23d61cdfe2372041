"""When, and by which channel, to say what nobody asked for: our policy against a fixed hour, at once, and caps alone.

    python -m benchmarks.delivery [--quick|--full]

A declared generator of receptivity, never a claim about people; no data are needed. A simulated user has a rhythm
(sleep, work, two peaks of attention in a day, a tenth work nights), uses the app in some hours, likes topics
differently, and is *annoyed* by what comes at a bad time or is not wanted; annoyance fades with a half-life of three
days, makes waving away likelier, and at its height makes the user switch notifications off for good. Messages become
due at any hour and expire after one to seven days. The policies see none of this: only whether the app is in use now,
and what came of what they said. All meet the same users and the same messages; intervals are 95% over users, of paired
differences.

The policies run on the pure parts (edge_client/decide): what the store adds is measured in time at the end.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from benchmarks.harness import Options, Row, main
from edge_client.decide.delivery import HOUR_S, Candidate, Moment, Worth, choose, hour_of_week
from edge_client.decide.delivery_caps import DAY_S, WEEK_S, Caps, History, scopes_of
from edge_client.decide.follow_ups import TOPICS, FollowUp
from edge_client.decide.receptive_hours import HOURS, Channel, FloatArray, ReceptiveHours

START_S = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
WEEKS = 16
PER_DAY = 0.8
"""Messages that become due."""
SEEN_LATER = 0.2
"""A notification that was not noticed in its hour is seen later so often, and then half as likely to be opened."""
ANNOYANCE_HALF_LIFE_H = 72.0
FIRST_SEED = 1000
"""Users below were looked at while the policy was written; none of them is measured."""
WORTH = Worth()


@dataclass(frozen=True)
class Message:
    """One thing to say."""

    candidate: Candidate
    luck: FloatArray
    """[6] uniform draws: the same whichever policy says it."""


@dataclass(eq=False)
class User:
    """One simulated user. What is drawn depends on the seed alone."""

    seed: int
    attention: FloatArray = field(init=False)
    """[168]"""
    use: FloatArray = field(init=False)
    """[weeks * 168]: whether the app is in use in each hour."""
    messages: list[Message] = field(init=False)
    openness: dict[str, float] = field(init=False)
    liking: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng([self.seed, 7])
        self.attention, using = _rhythm(random)
        self.use = (random.random(WEEKS * HOURS) < np.tile(using, WEEKS)).astype(np.float64)
        self.openness = {
            name: float(np.clip(random.normal(mean, 0.12), 0.05, 0.95))
            for name, mean in (("chat", 0.55), ("card", 0.3), ("notification", 0.5))
        }
        self.liking = {topic: float(random.beta(3.0, 2.0)) for topic in TOPICS}
        self.patience = float(random.gamma(4.0, 0.25))
        """How much annoyance it takes."""
        count = int(random.poisson(PER_DAY * 7 * WEEKS))
        due = np.sort(START_S + random.random(count) * WEEKS * WEEK_S)
        self.messages = [
            Message(
                Candidate(
                    f"m{number}",
                    str(random.choice(TOPICS)),
                    float(at_s),
                    float(at_s + random.uniform(1.0, 7.0) * DAY_S),
                ),
                random.random(6),
            )
            for number, at_s in enumerate(due)
        ]

    def reaction(self, message: Message, channel: str, hour: int, annoyance: float) -> tuple[str, float, bool]:
        """Outcome, what it adds to annoyance, and whether notifications are switched off."""
        week = hour % HOURS
        luck = message.luck
        wanted = self.openness[channel] * self.liking[message.candidate.topic] / 0.6
        if channel == "card":
            noticed = bool(self.use[hour : hour + 72].any())
        else:
            noticed = channel == "chat" or bool(luck[0] < self.attention[week])
            if not noticed and luck[1] < SEEN_LATER:
                noticed, wanted = True, wanted / 2.0
        opened = noticed and luck[2] < min(0.95, wanted)
        weariness = annoyance / self.patience
        waved_away = (
            noticed and not opened and luck[3] < min(0.9, (0.1 if channel == "card" else 0.3) + 0.4 * weariness)
        )
        weight = {"chat": 0.2, "card": 0.05, "notification": 0.35}[channel]
        bad_time = 1.0 + 2.0 * (channel == "notification" and self.attention[week] < 0.1)
        added = 0.0 if opened else weight * bad_time * (1.5 if waved_away else 1.0)
        off = channel == "notification" and not opened and bool(luck[4] < 0.004 + 0.08 * max(0.0, weariness - 0.4))
        if opened:
            return ("acted" if luck[5] < 0.25 else "opened"), added, off
        return ("disabled" if off else "dismissed" if waved_away else "ignored"), added, off


def _rhythm(random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Attention and use, [168] each."""
    wakes, sleeps = random.normal(7.0, 1.0), random.normal(23.0, 1.0)
    shift = 11.0 if random.random() < 0.1 else 0.0
    peaks = random.choice([7.5, 9.0, 12.5, 15.5, 18.0, 20.0, 21.5], 2, replace=False)
    heights = random.uniform(0.35, 0.75, 2)
    base = random.uniform(0.08, 0.2)
    attention = np.zeros(HOURS)
    for hour in range(HOURS):
        day, clock = divmod(hour, 24)
        late = 1.5 if day >= 5 else 0.0
        felt = (clock + 0.5 - shift - late) % 24
        awake = wakes <= felt <= sleeps
        bumps = sum(
            height * np.exp(-0.5 * ((felt - peak) / 0.9) ** 2) for height, peak in zip(heights, peaks, strict=True)
        )
        attention[hour] = np.clip((base + bumps) if awake else 0.01, 0.01, 0.95)
    return attention, np.clip(0.35 * attention - 0.02, 0.0, 1.0)


class Policy:
    """Says things to one user; sees only what an app sees."""

    name = "ours: value, learned hours and channels"
    learns = True

    channels = frozenset({"chat", "card", "notification"})

    def __init__(self) -> None:
        self.hours, self.history, self.caps = ReceptiveHours(), History(), Caps()

    def pick(self, waiting: Sequence[Candidate], moment: Moment, off: bool) -> tuple[Candidate, Channel] | None:
        channels = self.channels - ({"notification"} if off else set())
        best: tuple[float, Candidate, Channel] | None = None
        for one in waiting:
            choice = choose(one, channels, moment, self.hours, self._waits(one, moment.now_s), WORTH)
            if choice.action == "deliver" and choice.channel and (best is None or choice.value > best[0]):
                best = choice.value, one, choice.channel
        return None if best is None else best[1:]

    def said(self, one: Candidate, channel: str, now_s: float) -> None:
        self.history = self.history.with_delivery(scopes_of(one.topic, channel, "personalisation"), now_s)

    def heard(self, one: Candidate, channel: str, outcome: str, now_s: float, hour: int | None) -> None:
        self.history = self.history.after(scopes_of(one.topic, channel, "personalisation"), outcome)
        if self.learns:
            self.hours.learn(channel, one.topic, outcome, now_s, hour)

    def used(self, hour: int, now_s: float) -> None:
        if self.learns:
            self.hours.used(hour, now_s)

    def _waits(self, one: Candidate, now_s: float) -> Callable[[str], float]:
        return lambda channel: self.history.wait_s(self.caps, scopes_of(one.topic, channel, "personalisation"), now_s)


class Unlearned(Policy):
    name = "ours without learning: value, the population's hours"
    learns = False


class Notified(Policy):
    """Where the app has no other surface, the moment is all there is to choose."""

    name = "ours, notifications only"
    channels = frozenset({"notification"})


class NotifiedUnlearned(Notified):
    name = "ours without learning, notifications only"
    learns = False


class CapsAnywhere(Policy):
    """In the conversation if the user is there, else a notification, as soon as caps, back-off and the night allow."""

    name = "caps only: chat if in use, else a notification"
    learns = False

    def pick(self, waiting: Sequence[Candidate], moment: Moment, off: bool) -> tuple[Candidate, Channel] | None:
        wall = moment.wall(moment.now_s)
        channel: Channel = "chat" if moment.in_use else "notification"
        if (off and not moment.in_use) or moment.is_quiet(channel, wall, in_use=moment.in_use):
            return None
        ready = [one for one in waiting if self._waits(one, moment.now_s)(channel) <= 0.0]
        return (ready[0], channel) if ready else None


class CapsOnly(Policy):
    """By notification as soon as caps, back-off and the night allow."""

    name = "caps only: a notification as soon as they allow"
    learns = False

    def pick(self, waiting: Sequence[Candidate], moment: Moment, off: bool) -> tuple[Candidate, Channel] | None:
        wall = moment.wall(moment.now_s)
        if off or moment.is_quiet("notification", wall, in_use=False):
            return None
        ready = [one for one in waiting if self._waits(one, moment.now_s)("notification") <= 0.0]
        return (ready[0], "notification") if ready else None


class FixedHour(CapsOnly):
    """Once a day, at 18:00, the oldest; no back-off."""

    name = "fixed hour: a notification daily at 18:00"

    def pick(self, waiting: Sequence[Candidate], moment: Moment, off: bool) -> tuple[Candidate, Channel] | None:
        due = moment.wall(moment.now_s).hour == 18 and waiting and not off
        return (waiting[0], "notification") if due else None


class AlwaysNow(CapsOnly):
    name = "always now: a notification when due"

    def pick(self, waiting: Sequence[Candidate], moment: Moment, off: bool) -> tuple[Candidate, Channel] | None:
        return (waiting[0], "notification") if waiting and not off else None


POLICIES: Mapping[type[Policy], tuple[type[Policy], ...]] = {
    Policy: (Unlearned, CapsAnywhere, CapsOnly, FixedHour, AlwaysNow),
    Notified: (NotifiedUnlearned, CapsOnly, FixedHour, AlwaysNow),
}
"""Ours -> what it is compared with."""


@dataclass(frozen=True)
class Lived:
    """What came of one policy with one user."""

    opened: int
    dismissed: int
    ignored: int
    disabled: int
    worth: float
    late_worth: float
    """Of the second half."""
    due: int


def lived(user: User, kind: type[Policy]) -> Lived:
    policy, annoyance, off = kind(), 0.0, False
    counts = dict.fromkeys(("opened", "acted", "dismissed", "ignored", "disabled"), 0)
    worth, late = 0.0, 0.0
    waiting: list[Message] = []
    ahead = list(user.messages)
    for hour in range(WEEKS * HOURS):
        now_s = START_S + hour * HOUR_S + 60.0
        annoyance *= 0.5 ** (1.0 / ANNOYANCE_HALF_LIFE_H)
        while ahead and ahead[0].candidate.due_s <= now_s:
            waiting.append(ahead.pop(0))
        waiting = [one for one in waiting if one.candidate.expires_s > now_s]
        in_use = bool(user.use[hour])
        if in_use:
            policy.used(hour % HOURS, now_s)
        for _ in range(5):
            moment = Moment(now_s, UTC, in_use=in_use)
            picked = policy.pick([one.candidate for one in waiting], moment, off) if waiting else None
            if picked is None:
                break
            one, channel = picked
            message = next(known for known in waiting if known.candidate is one)
            waiting.remove(message)
            policy.said(one, channel, now_s)
            outcome, added, now_off = user.reaction(message, channel, hour, annoyance)
            annoyance, off = annoyance + added, off or now_off
            blind = channel == "notification" and not in_use
            policy.heard(one, channel, outcome, now_s, hour_of_week(moment.wall(now_s)) if blind else None)
            counts[outcome] += 1
            gained = _worth(outcome, channel)
            worth, late = worth + gained, late + gained * (hour >= WEEKS * HOURS // 2)
    return Lived(
        counts["opened"] + counts["acted"],
        counts["dismissed"] + counts["disabled"],
        counts["ignored"],
        int(off),
        worth,
        late,
        len(user.messages),
    )


def _worth(outcome: str, channel: str) -> float:
    return {
        "opened": WORTH.opened,
        "acted": WORTH.opened + WORTH.acted,
        "dismissed": -WORTH.dismissed,
        "ignored": -WORTH.ignored[channel],
        "disabled": -WORTH.dismissed - WORTH.disabled,
    }[outcome]


FIGURES: tuple[tuple[str, str, Callable[[Lived], float]], ...] = (
    ("net worth", "opened messages", lambda one: one.worth),
    ("net worth, second half", "opened messages", lambda one: one.late_worth),
    ("opened", "messages", lambda one: one.opened),
    ("opened of what was said", "share", lambda one: one.opened / max(1, one.opened + one.dismissed + one.ignored)),
    ("dismissed", "messages", lambda one: one.dismissed),
    ("ignored", "messages", lambda one: one.ignored),
    ("notifications switched off", "of users", lambda one: one.disabled),
)


def run(options: Options) -> list[Row]:
    users = [User(FIRST_SEED + seed) for seed in range(options.pick(6, 40, 400))]
    lives: dict[str, list[Lived]] = {}
    for kind in dict.fromkeys(kind for ours, peers in POLICIES.items() for kind in (ours, *peers)):
        lives[kind.name] = [lived(user, kind) for user in users]
        options.say(kind.name)
    rows = []
    for ours, kind in ((ours, peer) for ours, peers in POLICIES.items() for peer in peers):
        for metric, unit, figure in FIGURES:
            mine = np.array([figure(one) for one in lives[ours.name]])
            theirs = np.array([figure(one) for one in lives[kind.name]])
            rows.append(
                Row(
                    ours.name,
                    f"{metric} {_interval(mine - theirs)}",
                    unit,
                    float(mine.mean()),
                    kind.name,
                    float(theirs.mean()),
                    len(users),
                )
            )
    return rows + _times(options.pick(200, 2000, 5000))


def _interval(gaps: FloatArray) -> str:
    half = 1.96 * float(gaps.std(ddof=1)) / np.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
    return f"(difference {gaps.mean():+.2f} ± {half:.2f})"


def _times(repeats: int) -> list[Row]:
    """What a tick costs on a device, with an encrypted store."""
    from edge_client.delivering import Delivering
    from edge_client.know.consent import Consent
    from edge_client.know.profile import Profile
    from edge_client.know.store import Store
    from shared_models.profile import default_schema

    now_s = START_S + 10 * HOUR_S
    rows = []
    with tempfile.TemporaryDirectory() as folder, Store(folder, key=bytes(32)) as store:
        consent = Consent(store, lambda: now_s)
        consent.grant("personalisation")
        room = Delivering(store, consent, Profile(store, default_schema(), lambda: now_s), lambda: now_s)
        for case, count, due_s in (("nothing planned", 0, 0.0), ("20 planned, none due", 20, now_s + DAY_S)):
            facts = {"first": "2026-12-03", "last": "2026-12-08"}
            room.plan(
                FollowUp(f"{case}{number}", "how_was_it", due_s, due_s + DAY_S, "lisbon", facts)
                for number in range(count)
            )
            started_s = time.process_time()
            for _ in range(repeats):
                room.tick()
            took_us = (time.process_time() - started_s) / repeats * 1e6
            rows.append(Row(f"a tick, {case}", "CPU", "µs", took_us))
    hours, now = ReceptiveHours(), Moment(now_s, UTC)
    one = Candidate("x", "how_was_it", now_s - DAY_S, now_s + 4 * DAY_S)
    started_s = time.process_time()
    for _ in range(repeats):
        choose(one, ("chat", "card", "notification"), now, hours, lambda _: 0.0, WORTH)
    rows.append(Row("one choice, 96 hours ahead", "CPU", "µs", (time.process_time() - started_s) / repeats * 1e6))
    return rows


if __name__ == "__main__":
    main("delivery", run)
