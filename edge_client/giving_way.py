"""Who gives way when a bounded number of things is full: no owner pushes out those of others who hold fewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def gives_way(owners: Sequence[str]) -> int:
    """The index of what has to go. `owners`: one or more, of what was unused for longest first; the last has just come.

    It is the oldest of an owner that holds most: the newcomer's own, if that is one. So with n owners each keeps an nth at least.
    """
    held = Counter(owners)
    most = max(held.values())
    if most > 1 and held[owners[-1]] == most:
        return owners.index(owners[-1])
    return next(index for index, owner in enumerate(owners) if held[owner] == most)
