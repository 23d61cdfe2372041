"""A domain: the world of one app as a folder of YAML, loaded by path.

    DIR/domain.yaml          domain, title, language, labels (intent -> plain words), places (masked by the lint)
    DIR/intents/NAME.yaml    intent, description, seeds (public phrases), utterances (register -> train/test)
    DIR/out_of_scope.yaml    calibration, test
    DIR/templates.yaml       intent (and out_of_scope, unsure) -> replies
    DIR/rules.yaml           the first rule set
    DIR/words.LANGUAGE.yaml  labels and templates in another language (languages/domain_words.py)
    DIR/catalogue.yaml       what can be suggested: places, with features and prices (travel/catalogue.py)
    DIR/profile.yaml         what may be known about the user beside what every app may (profile_file.py)

Only `domain.yaml` and one intent file per intent are needed. `utterances` serve simulation and tests and never a shipped model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shared_models.canonical import canonical_hash
from shared_models.errors import DomainError
from shared_models.intents import OUT_OF_SCOPE
from shared_models.rules.ruleset import RuleSet

UNSURE = "unsure"
MAX_TEXT_CHARS = 2000
MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_INTENTS = 1000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


@dataclass(frozen=True)
class Utterance:
    """One sentence written for simulation: what a user of some habit would type."""

    text: str
    intent: str
    register: str


@dataclass(frozen=True)
class IntentSpec:
    """One intent of a domain."""

    name: str
    description: str
    label: str
    """Plain words for questions: "book a flight"."""
    seeds: tuple[str, ...]
    """Public phrases that the model starts from."""
    train: tuple[Utterance, ...] = ()
    test: tuple[Utterance, ...] = ()


@dataclass(frozen=True)
class Domain:
    """A loaded, checked domain."""

    name: str
    title: str
    language: str
    intents: tuple[IntentSpec, ...]
    """In the order of their names: this is the order of the model's classes."""
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rules: RuleSet = field(default_factory=RuleSet)
    out_of_scope_calibration: tuple[str, ...] = ()
    out_of_scope_test: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)
    """Where it was loaded from: words, catalogue and profile lie there (domain_targets.py)."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.intents)

    @property
    def hash(self) -> str:
        """SHA-256 over all that reaches a device: labels, seeds, templates and rules."""
        return canonical_hash(
            {
                "domain": self.name,
                "intents": [[spec.name, spec.label, list(spec.seeds)] for spec in self.intents],
                "templates": {name: list(texts) for name, texts in self.templates.items()},
                "rules": self.rules.document(),
            }
        )


TRAVEL = Path(__file__).parent / "travel"
"""The domain that ships."""


def load_domain(folder: Path | str) -> Domain:
    """Read and check a domain folder. Raises DomainError that names file and field; reads nothing outside the folder."""
    root = Path(folder)
    if not root.is_dir():
        raise DomainError(f"{root}: no such domain folder; `tacit-fleet domain new {root}` makes one")
    head = _read_mapping(root / "domain.yaml")
    name = _matching(root / "domain.yaml", "domain", head.get("domain"))
    labels = _mapping(root / "domain.yaml", "labels", head.get("labels", {}))
    files = sorted((root / "intents").glob("*.yaml"))
    if not 2 <= len(files) <= MAX_INTENTS:
        raise DomainError(f"{root / 'intents'}: {len(files)} intent files, expected 2 to {MAX_INTENTS}")
    intents = tuple(_load_intent(path, labels) for path in files)
    known = {spec.name for spec in intents}
    if stray := sorted(map(str, set(labels) - known)):
        raise DomainError(f"{root / 'domain.yaml'}: labels names {stray[0]!r}, which has no file in intents/")
    outside = _read_mapping(root / "out_of_scope.yaml", optional=True)
    templates_path = root / "templates.yaml"
    templates = {
        _matching(templates_path, "template", intent): _sentences(templates_path, str(intent), texts)
        for intent, texts in _read_mapping(templates_path, optional=True).items()
    }
    if stray := sorted(set(templates) - known - {OUT_OF_SCOPE, UNSURE}):
        raise DomainError(f"{templates_path}: {stray[0]!r} is not an intent of this domain")
    rules = RuleSet.from_yaml(root / "rules.yaml", known) if (root / "rules.yaml").exists() else RuleSet()
    return Domain(
        name=name,
        title=_text(root / "domain.yaml", "title", head.get("title", name)),
        language=_text(root / "domain.yaml", "language", head.get("language", "en")),
        intents=intents,
        templates=templates,
        rules=rules,
        out_of_scope_calibration=_sentences(
            root / "out_of_scope.yaml", "calibration", outside.get("calibration", []), least=0
        ),
        out_of_scope_test=_sentences(root / "out_of_scope.yaml", "test", outside.get("test", []), least=0),
        places=_sentences(root / "domain.yaml", "places", head.get("places", []), least=0),
        folder=root,
    )


def _load_intent(path: Path, labels: Mapping[Any, Any]) -> IntentSpec:
    body = _read_mapping(path)
    name = _matching(path, "intent", body.get("intent"))
    if name != path.stem:
        raise DomainError(f"{path}: intent is {name!r}, expected the file's own name {path.stem!r}")
    if name in (OUT_OF_SCOPE, UNSURE):
        raise DomainError(f"{path}: {name!r} is reserved and cannot be an intent")
    parts: dict[str, list[Utterance]] = {"train": [], "test": []}
    for register, split in _mapping(path, "utterances", body.get("utterances", {})).items():
        for part, texts in _mapping(path, f"utterances.{register}", split).items():
            if part not in parts:
                raise DomainError(f"{path}: utterances.{register}.{part}: expected train or test")
            where = f"utterances.{register}.{part}"
            parts[part] += [Utterance(text, name, str(register)) for text in _sentences(path, where, texts)]
    return IntentSpec(
        name=name,
        description=_text(path, "description", body.get("description", name)),
        label=_text(path, "label", labels.get(name, name.replace("_", " "))),
        seeds=_sentences(path, "seeds", body.get("seeds")),
        train=tuple(parts["train"]),
        test=tuple(parts["test"]),
    )


def read_yaml(path: Path) -> Any:
    """Read one YAML file of a domain, safely. Raises DomainError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DomainError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DomainError(f"{path}: missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DomainError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DomainError(f"{path}: not valid YAML: {error}") from error


def _read_mapping(path: Path, *, optional: bool = False) -> Mapping[Any, Any]:
    if optional and not path.exists():
        return {}
    return _mapping(path, "file", read_yaml(path))


def _mapping(path: Path, where: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise DomainError(f"{path}: {where}: expected a mapping, got {type(value).__name__}")
    return value


def _sentences(path: Path, where: str, value: Any, *, least: int = 1) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < least:
        raise DomainError(f"{path}: {where}: expected a list of at least {least} sentences")
    return tuple(_text(path, where, item) for item in value)


def _text(path: Path, where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARS:
        raise DomainError(f"{path}: {where}: {str(value)[:80]!r} is not a text of 1 to {MAX_TEXT_CHARS} characters")
    return value


def _matching(path: Path, where: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise DomainError(
            f"{path}: {where}: {str(value)[:80]!r} is not a name (lower case letters, digits, underscores)"
        )
    return value
