"""Looking at a record without a copy: it is what `get` gives, whatever happened in between."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edge_client.know.store import Store

KEY = bytes(range(32))


def test_a_glance_sees_every_change_and_every_undoing(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("switches")
        assert table.glance("a") is None
        table.put("a", {"on": True})
        assert table.glance("a") == {"on": True}
        table.put("a", {"on": False})
        assert table.glance("a") == table.get("a") == {"on": False}
        with contextlib.suppress(KeyError), store.transaction():
            table.put("a", {"on": True})
            assert table.glance("a") == {"on": True}
            raise KeyError
        assert table.glance("a") == {"on": False}
        table.delete("a")
        assert table.glance("a") is None
        table.put("a", {"on": True})
        table.clear()
        assert table.glance("a") is None


def test_a_glance_is_parsed_once_and_cannot_be_written_to(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("switches")
        table.put("a", {"on": True})
        seen = table.glance("a")
        assert table.glance("a") is seen
        with pytest.raises(TypeError):
            seen["on"] = False  # type: ignore[index]
        assert table.get("a") == {"on": True}


def test_a_glance_sees_that_a_purpose_was_destroyed(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("taste", purpose="personalisation")
        table.put("a", {"on": True})
        assert table.glance("a") == {"on": True}
        store.destroy_purpose("personalisation")
        assert store.table("taste", purpose="personalisation").glance("a") is None
