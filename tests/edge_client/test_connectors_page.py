"""The page for app developers is run as it stands, against a real server."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from connector_world import Asked, Said, Server

from edge_client.know.connectors.backend import MAX_PAGE_BYTES, MAX_PAGES
from edge_client.know.connectors.calendar import FIELDS, HORIZON_DAYS, TRIP_CATEGORIES
from edge_client.know.events import OLDEST_S
from edge_client.know.profile import MOST_OVERRULED, TRUST
from shared_models.profile import default_schema

PAGE = (Path(__file__).parents[2] / "docs" / "connectors.md").read_text(encoding="utf-8")


def test_every_example_of_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    soon = now + timedelta(days=2)

    def answer(asked: Asked) -> Said:
        body: Any = {"tier": "gold", "address": {"city": "Bern", "street": "Gasse"}, "updated_at": now.isoformat()}
        if asked.path.endswith("/orders"):
            order = {"id": 1, "sum": 40, "currency": "EUR", "ordered_at": (now - timedelta(hours=1)).isoformat()}
            body = {"items": [order], "next": None}
        return Said(body=json.dumps(body).encode())

    calendar = (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//EN\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:secret\r\n"
        f"DTSTART:{soon:%Y%m%dT%H%M%SZ}\r\nDURATION:PT1H\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    (tmp_path / "mine.ics").write_text(calendar, encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    with Server(answer).running() as server:
        names: dict[str, Any] = {
            "folder": tmp_path / "store",
            "base_url": server.url,
            "token": lambda: "token",
            "calendar_file": tmp_path / "mine.ics",
        }
        for block in blocks:
            exec(compile(block, "docs/connectors.md", "exec"), names)
    with names["store"]:
        values = {name: found.value for name, found in names["profile"].values().items()}
        assert values["home_city"] == "Bern"
        assert values["busy_hours_7d"] == 1.0
        assert values["interests"] == ["running"]
        assert 40.0 in [event.properties["total"] for event in names["capture"].events()]
    assert "'corrected': True" in capsys.readouterr().out


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    assert f"and {MAX_PAGE_BYTES // 1024**2} MiB, a pull at most {MAX_PAGES} pages" in PAGE
    assert f"up to {HORIZON_DAYS} days" in PAGE
    assert f"older than {OLDEST_S / 86_400:g} days" in PAGE
    assert MOST_OVERRULED == 8
    assert re.findall(r"^\| \d \| (\w+) \|", PAGE, re.MULTILINE) == sorted(TRUST, key=lambda name: -TRUST[name])
    assert len([name for name in FIELDS if name in default_schema().attributes]) == 5
    for name in TRIP_CATEGORIES - {"holidays"}:
        assert f"`{name}`" in PAGE
