"""The lint of a domain: `tacit-fleet domain check DIR`, or `python -m shared_models.domain_lint DIR`.

It keeps an evaluation honest: sentences that differ only in a slot, or barely, would let test wording leak into training. It
keeps an assistant honest: no text presses without a fact, and no file names what is never inferred.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from shared_models.domain import Domain, load_domain
from shared_models.domain_targets import CATALOGUE_FILE, domain_targets, has_catalogue
from shared_models.errors import DomainError
from shared_models.languages import LANGUAGES
from shared_models.languages.domain_words import load_domain_words
from shared_models.pressure import texts_of_rules, texts_of_wording, unsupported_pressure
from shared_models.rules.items import unknown_in_rules
from shared_models.travel.catalogue import load_catalogue

MAX_JACCARD = 0.6
MIN_SEEDS = 10
_TIMES = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "mon",
    "tue",
    "wed",
    "thu",
    "fri",
    "sat",
    "sun",
    "today",
    "tomorrow",
    "tonight",
    "yesterday",
    "weekend",
    "easter",
    "christmas",
    "spring",
    "summer",
    "autumn",
    "winter",
]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


@dataclass(frozen=True)
class Sentence:
    text: str
    intent: str
    part: str
    """`seeds`, `train`, `test`, `calibration` or `oos_test`."""


def lint_domain(domain: Domain) -> list[str]:
    """All that is wrong with the domain's wording, one line each; empty if it may be used."""
    sentences = list(_sentences(domain))
    return [
        *_few_seeds(domain),
        *_missing_templates(domain),
        *_pressing(domain),
        *_shared_skeletons(sentences, domain.places),
        *_near_duplicates(sentences),
        *_unusable_files(domain),
        *_strange_items(domain),
    ]


def skeleton(text: str, places: frozenset[str]) -> tuple[str, ...]:
    """The sentence with its slots masked: places, times, and everything with a digit."""
    words = [word.lower() for word in _WORD.findall(text)]
    masked: list[str] = []
    position = 0
    while position < len(words):
        for width in (3, 2, 1):
            if " ".join(words[position : position + width]) in places:
                break
        else:
            width = 1
            word = words[position]
            if not (word in _TIMES or any(character.isdigit() for character in word)):
                masked.append(word)
                position += 1
                continue
        if not masked or masked[-1] != "<slot>":
            masked.append("<slot>")
        position += width
    return tuple(masked)


def character_grams(text: str, size: int = 4) -> frozenset[str]:
    padded = f" {' '.join(text.lower().split())} "
    return frozenset(padded[start : start + size] for start in range(max(1, len(padded) - size + 1)))


def _sentences(domain: Domain) -> Iterator[Sentence]:
    for spec in domain.intents:
        yield from (Sentence(text, spec.name, "seeds") for text in spec.seeds)
        yield from (Sentence(item.text, spec.name, "train") for item in spec.train)
        yield from (Sentence(item.text, spec.name, "test") for item in spec.test)
    yield from (Sentence(text, "out_of_scope", "calibration") for text in domain.out_of_scope_calibration)
    yield from (Sentence(text, "out_of_scope", "oos_test") for text in domain.out_of_scope_test)


def _few_seeds(domain: Domain) -> Iterator[str]:
    for spec in domain.intents:
        if len(spec.seeds) < MIN_SEEDS:
            yield f"{spec.name}: {len(spec.seeds)} seed phrases, at least {MIN_SEEDS} are needed for a useful start"


def _missing_templates(domain: Domain) -> Iterator[str]:
    for name in (*domain.labels, "out_of_scope", "unsure"):
        if not domain.templates.get(name):
            yield f"{name}: no reply in templates.yaml"


def _pressing(domain: Domain) -> Iterator[str]:
    """Texts that press by what no named fact supports (pressure.py), in every language that the domain speaks."""
    labels = {spec.name: spec.label for spec in domain.intents}
    texts = [*texts_of_wording(domain.templates, labels, "templates.yaml"), *texts_of_rules(domain.rules)]
    for language in LANGUAGES:
        if (
            domain.folder is not None
            and language != domain.language
            and (domain.folder / f"words.{language}.yaml").exists()
        ):
            # A file that cannot be read is reported with the other files.
            with contextlib.suppress(DomainError):
                said = load_domain_words(domain, domain.folder, language)
                texts += texts_of_wording(said.templates, said.labels, f"words.{language}.yaml")
    yield from unsupported_pressure(texts)


def _strange_items(domain: Domain) -> Iterator[str]:
    """What rules about items name and the domain's catalogue lacks."""
    # A catalogue that cannot be read is reported with the other files.
    with contextlib.suppress(DomainError):
        there = domain.folder is not None and has_catalogue(domain)
        catalogue = load_catalogue(domain.folder / CATALOGUE_FILE) if domain.folder is not None and there else None
        yield from unknown_in_rules(domain.rules, catalogue)


def _unusable_files(domain: Domain) -> Iterator[str]:
    """Of words, profile and catalogue, the first that cannot be published."""
    try:
        domain_targets(domain)
    except DomainError as error:
        yield str(error)


def _shared_skeletons(sentences: list[Sentence], places: tuple[str, ...]) -> Iterator[str]:
    known = frozenset(place.lower() for place in places)
    seen: dict[tuple[str, ...], Sentence] = {}
    for sentence in sentences:
        key = skeleton(sentence.text, known)
        first = seen.setdefault(key, sentence)
        if first is not sentence:
            yield (
                f"{sentence.intent} ({sentence.part}): {sentence.text!r} has the skeleton of "
                f"{first.text!r} in {first.intent} ({first.part})"
            )


def _near_duplicates(sentences: list[Sentence]) -> Iterator[str]:
    """Near copies within one intent; across intents only those that would leak test wording into what is learned from."""
    for one, other, overlap in _similar_pairs(sentences):
        tests = [item.part in ("test", "oos_test") for item in (one, other)]
        if one.intent == other.intent:
            yield (
                f"{one.intent}: {one.text!r} ({one.part}) and {other.text!r} ({other.part}) "
                f"share {overlap:.2f} of their character 4-grams, at most {MAX_JACCARD} is allowed"
            )
        elif tests[0] != tests[1]:
            test, taught = (one, other) if tests[0] else (other, one)
            yield f"{test.intent}: test {test.text!r} nearly stands in {taught.intent}: {taught.text!r}"


def _similar_pairs(sentences: list[Sentence]) -> Iterator[tuple[Sentence, Sentence, float]]:
    """All pairs whose 4-grams overlap by more than MAX_JACCARD, found through an index of the grams."""
    grams = [character_grams(sentence.text) for sentence in sentences]
    holders: dict[str, list[int]] = defaultdict(list)
    for number, own in enumerate(grams):
        shared = Counter(holder for gram in own for holder in holders[gram])
        for other, count in shared.items():
            overlap = count / (len(own) + len(grams[other]) - count)
            if overlap > MAX_JACCARD:
                yield sentences[number], sentences[other], overlap
        for gram in own:
            holders[gram].append(number)


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong; exit 1 if anything is."""
    (folder,) = arguments or sys.argv[1:]
    try:
        findings = lint_domain(load_domain(folder))
    except DomainError as error:
        findings = [str(error)]
    print("\n".join(findings) or f"{folder}: nothing to mend")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
