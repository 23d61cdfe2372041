"""What the gate needs from the device that it guards: its consents and a durable memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol


class ConsentSource(Protocol):
    def granted_since(self, purpose: str) -> float | None:
        """Unix time of the consent in force for `purpose`; None if there is none."""

    def given_since(self, purpose: str) -> float | None:
        """The same whether or not it counts now: a restriction that is lifted later must not make an old consent fresh."""


class GateMemory(Protocol):
    """Durable key → JSON object. What `put` wrote inside one `transaction` is there after kill -9, whole or not at all."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, value: Mapping[str, Any]) -> None: ...

    def entries(self, prefix: str) -> list[dict[str, Any]]:
        """Values of all keys that start with `prefix`, in the order in which they were first put."""

    @property
    def damaged(self) -> bool:
        """True if something of it may be lost: a forgotten expense would be a second budget."""

    def transaction(self) -> AbstractContextManager[Any]: ...
