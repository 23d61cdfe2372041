"""Simulated users: the same for the same seed, different from each other, and never in the words that accuracy is measured on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import aggregator.population
from aggregator.population import Habits, population_from_domain, population_from_rows, read_utterances
from shared_models.domain import Domain, Utterance, load_domain
from shared_models.errors import ConfigError

KNOWN = ("pay_fine", "renew_loan")


def test_a_seed_decides_everything(travel_domain: Domain) -> None:
    first, again, other = (population_from_domain(travel_domain, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.users != other.users
    assert "seed 1" in first.description


def test_held_out_wording_is_never_what_a_user_said(travel_domain: Domain) -> None:
    population = population_from_domain(travel_domain, 400, 0)
    said = {utterance.text.casefold().strip() for user in population.users for utterance in user}
    held_out = {utterance.text.casefold().strip() for utterance in population.held_out}
    public = {text.casefold().strip() for spec in travel_domain.intents for text in spec.seeds}
    assert not said & held_out
    assert not held_out & public
    assert {utterance.register for user in population.users for utterance in user} >= {
        utterance.register for utterance in population.held_out
    }


def test_users_have_habits(travel_domain: Domain) -> None:
    users = population_from_domain(travel_domain, 600, 0).users
    sizes = np.array([len(user) for user in users])
    assert sizes.min() >= 1
    assert sizes.max() <= Habits().most_utterances
    assert 12 < sizes.mean() < 18
    assert sizes.std() > 5
    talkative = [user for user in users if len(user) >= 15]
    intents = len(travel_domain.intents)
    # If all users were alike, 15 utterances would hold about this many different intents.
    alike = intents * (1 - (1 - 1 / intents) ** 15)
    assert np.mean([len({u.intent for u in user[:15]}) for user in talkative]) < 0.85 * alike
    favourite = [Counter(u.register for u in user).most_common(1)[0][1] / len(user) for user in talkative]
    overall = Counter(u.register for user in users for u in user)
    assert np.mean(favourite) > 1.3 * max(overall.values()) / overall.total()


def test_stronger_habits_are_stronger(travel_domain: Domain) -> None:
    def variety(concentration: float) -> float:
        habits = Habits(intent_concentration=concentration)
        users = population_from_domain(travel_domain, 200, 0, habits).users
        return float(np.mean([len({u.intent for u in user}) / len(user) for user in users if len(user) > 9]))

    assert variety(1.0) < variety(12.0) < variety(500.0)


def test_a_second_domain_needs_no_change(tiny_domain_dir: Path) -> None:
    domain = load_domain(tiny_domain_dir)
    population = population_from_domain(domain, 50, 0)
    assert len(population.users) == 50
    assert {utterance.intent for user in population.users for utterance in user} <= set(domain.labels)


def test_a_domain_without_utterances_cannot_be_simulated(tiny_domain_dir: Path) -> None:
    from dataclasses import replace

    domain = load_domain(tiny_domain_dir)
    bare = replace(domain, intents=tuple(replace(spec, train=(), test=()) for spec in domain.intents))
    with pytest.raises(ConfigError, match="has no utterances"):
        population_from_domain(bare, 10, 0)


# -- a file of one's own -----------------------------------------------------------------------------------------------


def written(folder: Path, *bad: bytes, good: int = 30) -> Path:
    """`good` usable lines, then an empty one, then the others."""
    lines = [
        json.dumps({"text": f"words {n}", "intent": KNOWN[n % 2], "user": f"u{n % 4}"}).encode() for n in range(good)
    ]
    path = folder / "data.jsonl"
    path.write_bytes(b"\n".join([*lines, b"", *bad]) + b"\n")
    return path


def test_rows_are_read(tmp_path: Path) -> None:
    line = json.dumps({"text": "écoute 🎫 مرحبا", "intent": "pay_fine"}, ensure_ascii=False).encode()
    rows = read_utterances(written(tmp_path, line), KNOWN)
    assert len(rows) == 31
    assert rows[0] == ("u0", Utterance("words 0", "pay_fine", "data"))
    assert rows[-1] == ("", Utterance("écoute 🎫 مرحبا", "pay_fine", "data"))


BAD_LINES = {
    "not JSON": b"{text: hello}",
    "half a line": b'{"text": "hello", "inte',
    "a list": b'["hello", "pay_fine"]',
    "a number": b"7",
    "nothing": b"null",
    "no text": b'{"intent": "pay_fine"}',
    "no intent": b'{"text": "hello"}',
    "text as number": b'{"text": 5, "intent": "pay_fine"}',
    "text as list": b'{"text": ["hello"], "intent": "pay_fine"}',
    "empty text": b'{"text": "", "intent": "pay_fine"}',
    "blank text": b'{"text": " \\t ", "intent": "pay_fine"}',
    "intent as number": b'{"text": "hello", "intent": 3}',
    "unknown intent": b'{"text": "hello", "intent": "fly_to_the_moon"}',
    "endless intent": b'{"text": "hello", "intent": "' + b"x" * 10_000 + b'"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(ConfigError, match=r"data\.jsonl, line 32: ") as caught:
        read_utterances(written(tmp_path, line), KNOWN)
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_utterances(tmp_path / "nothing.jsonl", KNOWN)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_utterances(tmp_path, KNOWN)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_utterances(written(tmp_path, b"\xff\xfe\x00"), KNOWN)
    with pytest.raises(ConfigError, match="19 rows, at least 20"):
        read_utterances(written(tmp_path, good=19), KNOWN)
    path = written(tmp_path)
    monkeypatch.setattr(aggregator.population, "MAX_DATA_BYTES", 100)
    with pytest.raises(ConfigError, match="larger than 100 bytes"):
        read_utterances(path, KNOWN)


def test_named_users_are_held_out_whole() -> None:
    rows = [(f"u{n % 10}", Utterance(f"words {n}", KNOWN[n % 2], "data")) for n in range(100)]
    population = population_from_rows(rows, 100, 0)
    assert (len(population.users), len(population.held_out)) == (8, 20)
    owners = {utterance.text: user for user, utterance in rows}
    held_out = {owners[utterance.text] for utterance in population.held_out}
    assert len(held_out) == 2
    for user in population.users:
        assert len({owners[u.text] for u in user}) == 1
        assert not {owners[u.text] for u in user} & held_out
    assert population == population_from_rows(rows, 100, 0)


def test_without_names_sentences_are_held_out_by_their_text() -> None:
    rows = [("", Utterance(f"words {n % 40}", KNOWN[n % 2], "data")) for n in range(100)]
    population = population_from_rows(rows, 25, 0)
    assert len(population.users) == 25
    assert all(len(user) == 15 for user in population.users)
    held_out = {utterance.text for utterance in population.held_out}
    assert len(held_out) == 8
    assert not held_out & {utterance.text for user in population.users for utterance in user}
