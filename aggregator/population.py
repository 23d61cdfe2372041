"""A declared generator of simulated users: who says what, and how. For demo, tests and benchmarks; never a claim about people.

Each user has habits: a skewed taste for intents (Dirichlet around a Zipf-like base rate), favourite registers (Dirichlet), and a
number of utterances (negative binomial, cut). Utterances are drawn from the domain's training wording only; the held-out wording
shares registers with it and no sentence.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_models.domain import Domain, Utterance
from shared_models.errors import ConfigError

MAX_DATA_BYTES = 1 << 28


@dataclass(frozen=True)
class Habits:
    """Parameters of the generator."""

    mean_utterances: float = 15.0
    dispersion: float = 3.0
    """Of the negative binomial: smaller means that users differ more in how much they say."""
    most_utterances: int = 60
    intent_concentration: float = 12.0
    """Of the Dirichlet over intents: smaller means that a user says the same few things."""
    zipf_exponent: float = 0.25
    register_concentration: float = 2.0


@dataclass(frozen=True)
class Population:
    """Wording for a simulated fleet."""

    users: tuple[tuple[Utterance, ...], ...]
    """What each user says on their device."""
    held_out: tuple[Utterance, ...]
    """What other users of the same habits say, in wording that no user of the fleet has: accuracy is measured on it."""
    description: str


def population_from_domain(domain: Domain, users: int, seed: int, habits: Habits | None = None) -> Population:
    """Hand the domain's training wording to `users` users with habits, and its test wording to others like them.

    Raises ConfigError if the domain has no utterances.
    """
    habits = habits or Habits()
    train = [utterance for spec in domain.intents for utterance in spec.train]
    test = [utterance for spec in domain.intents for utterance in spec.test]
    if not train or not test:
        raise ConfigError(f"domain {domain.name!r} has no utterances to simulate users with; give --data FILE.jsonl")
    random = np.random.default_rng([seed, users])
    intents = sorted({utterance.intent for utterance in train})
    base = 1.0 / np.arange(1, len(intents) + 1) ** habits.zipf_exponent
    taste = dict(zip(intents, random.permutation(base / base.sum()), strict=True))
    fleet = _draw_users(train, taste, users, habits, random)
    others = _draw_users(test, taste, max(200, users // 4), habits, random)
    description = (
        f"{users} simulated users of {domain.name!r}, seed {seed}; utterances per user: negative binomial, mean "
        f"{habits.mean_utterances:g}; intents: Dirichlet({habits.intent_concentration:g} x Zipf^{habits.zipf_exponent:g}); "
        f"registers: Dirichlet({habits.register_concentration:g})"
    )
    return Population(fleet, tuple(utterance for said in others for utterance in said), description)


def _draw_users(
    wording: Sequence[Utterance], base: Mapping[str, float], users: int, habits: Habits, random: np.random.Generator
) -> tuple[tuple[Utterance, ...], ...]:
    pool: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in wording:
        pool[utterance.intent, utterance.register].append(utterance)
    intents = sorted({intent for intent, _ in pool})
    registers = sorted({register for _, register in pool})
    rates = np.array([base.get(intent, 0.0) for intent in intents]) + 1e-6
    drawn = []
    for _ in range(users):
        taste = random.dirichlet(habits.intent_concentration * rates / rates.sum() + 1e-3)
        manner = random.dirichlet(np.full(len(registers), habits.register_concentration / len(registers) * 3)) + 1e-9
        chance = habits.dispersion / (habits.dispersion + habits.mean_utterances)
        count = int(np.clip(random.negative_binomial(habits.dispersion, chance), 1, habits.most_utterances))
        said = []
        for index in random.choice(len(intents), size=count, p=taste):
            intent = intents[int(index)]
            order = random.choice(len(registers), size=len(registers), replace=False, p=manner / manner.sum())
            available = next(pool[intent, registers[i]] for i in order if (intent, registers[i]) in pool)
            said.append(available[int(random.integers(len(available)))])
        drawn.append(tuple(said))
    return tuple(drawn)


def read_utterances(path: Path, known: Sequence[str]) -> list[tuple[str, Utterance]]:
    """Rows (user, utterance) of a JSONL file {text, intent, optional user}. Raises ConfigError with the line's number."""
    try:
        if path.stat().st_size > MAX_DATA_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_DATA_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, intent, user = row["text"], row["intent"], str(row.get("user", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: expected an object with text and intent") from error
        if not isinstance(text, str) or not text.strip() or not isinstance(intent, str):
            raise ConfigError(f"{path}, line {number}: text and intent are texts that are not empty")
        if intent not in known:
            raise ConfigError(f"{path}, line {number}: {intent[:60]!r} is not an intent of this domain")
        rows.append((user, Utterance(text, intent, "data")))
    if len(rows) < 20:
        raise ConfigError(f"{path}: {len(rows)} rows, at least 20 are needed")
    return rows


def population_from_rows(
    rows: Sequence[tuple[str, Utterance]], users: int, seed: int, *, test_share: float = 0.2
) -> Population:
    """Split rows into users and a test part.

    With user names, whole users are held out and the rest are the users; otherwise test sentences are held out by text and the
    others are dealt to `users` users, about 15 each.
    """
    random = np.random.default_rng(seed)
    by_user: dict[str, list[Utterance]] = defaultdict(list)
    for user, utterance in rows:
        by_user[user].append(utterance)
    if len(by_user) > 1:
        names = [sorted(by_user)[i] for i in random.permutation(len(by_user))]
        held = max(1, int(len(names) * test_share))
        test = tuple(utterance for name in names[:held] for utterance in by_user[name])
        dealt = tuple(tuple(by_user[name]) for name in names[held:][:users])
        return Population(dealt, test, f"{len(dealt)} users of the file, {held} others held out for testing")
    texts = sorted({utterance.text for _, utterance in rows})
    held_texts = {texts[i] for i in random.permutation(len(texts))[: max(1, int(len(texts) * test_share))]}
    test = tuple(utterance for _, utterance in rows if utterance.text in held_texts)
    train = [utterance for _, utterance in rows if utterance.text not in held_texts]
    dealt = tuple(tuple(train[int(i)] for i in random.integers(len(train), size=15)) for _ in range(users))
    return Population(
        dealt, test, f"{users} users dealt 15 sentences each of {len(train)}; {len(test)} held out by text"
    )
