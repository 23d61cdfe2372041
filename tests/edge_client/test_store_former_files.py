"""Files of the former format, brought forward once."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_model import KEY

from edge_client.know.store import EncryptedStorage, Store
from edge_client.know.store.erasure import erase_home
from edge_client.know.store.migrations import Schema
from shared_models.errors import StoreError, StoreRolledBackError

FORMER = {
    "store.key": "eyJjaGVjayI6ImIzZWE3ODBmMTFhZGUxZGFlZDQ1ZTY3MTgwZTU3NzcwIiwiZm9ybWF0IjoxLCJyZW1lbWJlcmVkIjp7fSwic2hhMjU2IjoiYzk4YzU5ZDE0ODgyZTdiZWFkZWM5NjlhMjE1Y2UwNWZlNjhmMGVlZmUxZTYwOTVlNTZlZGQxMzdkMzEyY2ViNiIsInNvdXJjZSI6InJhdyIsInN0b3JlX2lkIjoiMGFkNjIzY2MyMDQwZGU0OTYxNGQyYTE5NTMwY2ZkNWUiLCJ3cmFwcGVkIjoibmJzcmRCTU1KdHdXU1NmN2o0djJDcFUvdXZIV01qdCtQOWtMSWRUWnJmYWxWNGlLY2JCM2pTM1pyMHJHK3FkRHpkRHNESy9nQWpnVEp0K1lUSVJuSVJsOE1aV1ZZY1RuIn0=",  # noqa: E501
    "store.tacit": "VEFDSVRTVFJRAAAAeyJjb3VudGVyIjo1LCJmb3JtYXQiOjEsInNjaGVtYSI6Miwic3RvcmVfaWQiOiIwYWQ2MjNjYzIwNDBkZTQ5NjE0ZDJhMTk1MzBjZmQ1ZSJ9RRw5RAxZGjZK7uw6SIfSs/NVgYoa3SK5gP8ZIij/soyJEZtAxGL7zSRCN+SLAzVXM/KRbt0mHAsNh+vepo+P1uTBkiP5jAj/y6qm5n3dDZNAKZ44+S/VLI1aGOF/qc0asiSZdmACZEajiO7N5Mkj7EKz60+vL966e3HDXxbGIBUmZaOluSKV7PcrMMzCpO7i8hRZGaUcGrqMvJA+eH39R6Kb58ZuNWgRajjPNLXpvAx8VvGdp/mTnCcp+Y1jNmrvveyrBCMlRRs31Jq11hG8y53j8TgF6KlbAJggDVWw8fCx8+ZukqyqvShKiZG+/gi8CVT4fJVI8V3Xsr1wv0BtbErDogO7ifaGxoAy3TTfa++T",  # noqa: E501
    "store.counter": "BAAAAAAAAADfWPBTpmZuxxIjh8Ph0U2l/KyZfLJUM+wlr0W25XvmhAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUAAAAAAAAAYWbT2oScfiQNyXDmgPhb7kIyCg1uA+jFn0F+Rsnjmc4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",  # noqa: E501
}
"""Files that the former version wrote: one sealed JSON document, schema 2."""


@pytest.fixture
def former(tmp_path: Path) -> Path:
    home = tmp_path / "former"
    home.mkdir()
    for name, text in FORMER.items():
        (home / name).write_bytes(base64.b64decode(text))
    return home


def check_former(home: Path) -> None:
    with Store(home, key=KEY) as store:
        assert store.table("consent").items() == [("fleet-learning", {"granted": True, "at_s": 1.5})]
        assert store.table("gate").items() == [
            ("spent/fleet/1", {"rho": 0.25, "text": "ü ☃"}),
            ("clock", {"latest_s": 7}),
            ("spent/fleet/2", {"rho": 0.5}),
        ]
        assert store.table("own-intents").items() == [("a\nb", {"n": [1, {"deep": None}]})]
        assert store.describe()["schema"] == 2
        assert store.describe()["repaired"] is None
        assert not store.quarantined


def test_a_store_of_the_former_format_is_brought_forward_once(former: Path) -> None:
    with pytest.raises(StoreError):
        Store(former, key=bytes(32))
    assert base64.b64encode((former / "store.tacit").read_bytes()).decode() == FORMER["store.tacit"]
    check_former(former)
    new = (former / "store.tacit").read_bytes()
    check_former(former)
    assert (former / "store.tacit").read_bytes() == new
    # Neither its contents nor its file are accepted any more.
    (former / "store.tacit").write_bytes(base64.b64decode(FORMER["store.tacit"]))
    with pytest.raises(StoreRolledBackError):
        Store(former, key=KEY)


@pytest.mark.parametrize(
    "point",
    [
        "store.snapshot.half_temp",
        "store.snapshot.after_temp",
        "store.snapshot.after_rename",
        "store.snapshot.after_wipe",
        "store.after_counter",
        "store.key.after_temp",
        "store.key.after_rename",
        "store.key.after_wipe",
    ],
)
def test_a_kill_while_a_former_store_is_brought_forward_loses_nothing(former: Path, point: str) -> None:
    program = "import sys; from edge_client.know.store import Store; Store(sys.argv[1], key=bytes(range(32)))"
    environment = {**os.environ, "TACIT_FAULT": point}
    found = subprocess.run([sys.executable, "-c", program, str(former)], env=environment, check=False)
    assert found.returncode == -9
    check_former(former)
    assert not list(former.glob("*.tmp")) + list(former.glob("*.former"))


def test_an_older_contents_schema_keeps_its_purposes(tmp_path: Path) -> None:
    old = EncryptedStorage(tmp_path, key=KEY, schema=Schema(2))
    old.assign("events", "personalisation")
    old.change("events", [("1", b'{"n":1}')])
    old.close()
    newer = EncryptedStorage(
        tmp_path, key=KEY, schema=Schema(3, {2: lambda tables: {**tables, "more": {"x": {"n": 2}}}})
    )
    assert newer.read() == {"events": {"1": {"n": 1}}, "more": {"x": {"n": 2}}}
    assert newer.contents.purposes_in_use() == {"events": "personalisation"}
    newer.close()
    assert erase_home(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
