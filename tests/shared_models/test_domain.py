"""Domains: what loads, what is refused and how, and the lint that keeps an evaluation honest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_models.domain import TRAVEL, load_domain
from shared_models.domain_lint import lint_domain, main, skeleton
from shared_models.errors import DomainError

REGISTERS = {"colloquial", "terse", "indirect", "typos", "emotional", "non_native"}


def test_travel_is_as_large_as_it_says_and_passes_its_lint() -> None:
    domain = load_domain(TRAVEL)
    assert len(domain.intents) >= 30
    for spec in domain.intents:
        assert len(spec.seeds) == 15, spec.name
        assert len(spec.train) + len(spec.test) >= 40, spec.name
        assert {item.register for item in spec.train} == {item.register for item in spec.test} == REGISTERS
        assert domain.templates[spec.name]
    assert len(domain.out_of_scope_calibration) + len(domain.out_of_scope_test) >= 150
    assert domain.rules.rules
    assert lint_domain(domain) == []


def test_train_and_test_share_no_sentence() -> None:
    domain = load_domain(TRAVEL)
    public = {text.casefold() for spec in domain.intents for text in spec.seeds}
    train = {item.text.casefold() for spec in domain.intents for item in spec.train}
    test = {item.text.casefold() for spec in domain.intents for item in spec.test}
    assert not test & (train | public)


def test_skeletons_mask_places_numbers_and_times() -> None:
    places = frozenset({"rome", "new york"})
    assert skeleton("Fly to New York on 3 May", places) == skeleton("fly to Rome on Tuesday", places)
    assert skeleton("Fly to Rome", places) != skeleton("Drive to Rome", places)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    from aggregator.domain_scaffold import write_scaffold

    write_scaffold(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_scaffold_passes_its_own_lint(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny)]) == 0
    assert "nothing to mend" in capsys.readouterr().out


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content))


def void(_: object) -> None: ...


DAMAGE = {
    "no domain file": lambda folder: (folder / "domain.yaml").unlink(),
    "no intents": lambda folder: shutil.rmtree(folder / "intents"),
    "binary": write("domain.yaml", b"\xff\xfe\x00"),
    "not yaml": write("domain.yaml", b"domain: [unclosed"),
    "a list": write("domain.yaml", b"- a\n- b\n"),
    "code": write("domain.yaml", b"domain: !!python/object/apply:os.system ['true']\n"),
    "bad name": edit("domain.yaml", "domain: shop", "domain: ../shop"),
    "stray label": edit("domain.yaml", "find_item:", "find_itemx:"),
    "intent of another name": edit("intents/find_item.yaml", "intent: find_item", "intent: other"),
    "seeds missing": edit("intents/find_item.yaml", "seeds:", "phrases:"),
    "seed is a number": edit("intents/find_item.yaml", "- Find running shoes", "- 17"),
    "template of nothing": edit("templates.yaml", "find_item:", "fly_away:"),
    "template empty": write("templates.yaml", b"find_item: []\n"),
    "rule of unknown kind": edit("rules.yaml", "kind: reply", "kind: explode"),
    "rule for nothing": edit("rules.yaml", "- return_item", "- nothing"),
    "rule without reason": edit("rules.yaml", "reason:", "motive:"),
    "reserved name": lambda folder: (folder / "intents" / "find_item.yaml").rename(folder / "intents" / "unsure.yaml"),
    "huge": write("templates.yaml", b"a" * (3 << 20)),
    "deep": write("templates.yaml", b"[" * 5_000),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_a_damaged_domain_is_one_clear_error(name: str, tiny: Path) -> None:
    DAMAGE[name](tiny)
    with pytest.raises(DomainError) as caught:
        load_domain(tiny)
    assert str(tiny) in str(caught.value)


def test_the_lint_finds_shared_skeletons_near_copies_and_leaks(tiny: Path) -> None:
    path = tiny / "intents" / "find_item.yaml"
    path.write_text(
        path.read_text(encoding="utf-8")
        + "utterances:\n  terse:\n    train: [shoes size 41, please show me the green leather boots now]\n"
        + "    test: [shoes size 42, please show me the green leather boots, Track my parcels]\n",
        encoding="utf-8",
    )
    findings = "\n".join(lint_domain(load_domain(tiny)))
    assert "'shoes size 42'" in findings
    assert "4-grams" in findings
    assert "nearly stands in track_order" in findings
