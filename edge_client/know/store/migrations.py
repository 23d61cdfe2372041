"""How the store's contents grew: one function for each step from a schema to the next.

A store of an older schema is brought forward when it is opened and committed once, whole; a kill in between leaves the old one.
A newer one is refused: this version would lose what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared_models.errors import StoreDamagedError, StoreSchemaError

Tables = dict[str, Any]
Migration = Callable[[Tables], Tables]


@dataclass(frozen=True)
class Schema:
    """The schema that this version writes, and the steps that lead to it: `steps[n]` turns schema n into n+1."""

    version: int
    steps: Mapping[int, Migration] = field(default_factory=dict)

    def refuse_newer(self, version: int) -> None:
        """Raises StoreSchemaError for contents that this version would lose."""
        if version > self.version:
            raise StoreSchemaError(
                f"the store was written by a newer version (schema {version}, this one knows {self.version}): update the app"
            )

    def bring_forward(self, tables: Tables, version: int) -> Tables:
        """`tables` of schema `version` as tables of this schema. Raises StoreSchemaError, StoreDamagedError."""
        self.refuse_newer(version)
        for step in range(version, self.version):
            migrate = self.steps.get(step)
            if migrate is None:
                raise StoreSchemaError(
                    f"no way leads from schema {step} to {step + 1}: open it once with an older version"
                )
            try:
                tables = migrate(tables)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise StoreDamagedError(f"the store does not hold what schema {step} should: {error!r}") from error
        return tables


def _counted_examples(tables: Tables) -> Tables:
    """1 → 2: an example is kept once with a count, under the hash of its text; embeddings are kept with it."""
    from edge_client.know.examples import example_key

    kept: dict[str, dict[str, Any]] = {}
    for example in tables.pop("examples", {}).values():
        text, intent = str(example["text"]), str(example["intent"])
        key = example_key(text)
        count = kept[key]["count"] + 1 if key in kept and kept[key]["intent"] == intent else 1
        kept.pop(key, None)
        kept[key] = {"text": text, "intent": intent, "how": "meant", "at_s": float(example["at_s"]), "count": count}
    return {**tables, "examples": kept}


DEVICE_SCHEMA = Schema(version=2, steps={1: _counted_examples})
"""What this version of the device writes."""
