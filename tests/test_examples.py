"""The examples are whole programs: each is run as a reader runs it, on a real bundle, and does what its docstring says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aggregator.ports import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def shop_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the domain that `tacit-fleet domain new` makes."""
    folder = tmp_path_factory.mktemp("shop")
    for arguments in (["domain", "new", "my-domain"], ["build", "bundle", "--domain", "my-domain"]):
        subprocess.run([sys.executable, "-m", "aggregator.cli", *arguments], cwd=folder, env=ENVIRONMENT, check=True)
    return folder / "bundle"


@pytest.fixture
def web(tmp_path: Path, shop_bundle: Path) -> Iterator[httpx.Client]:
    port = free_port()
    arguments = [str(EXAMPLES / "web.py"), str(tmp_path / "home"), str(shop_bundle), str(port)]
    process = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, env=ENVIRONMENT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client:
            give_up_s = time.monotonic() + 60.0
            while True:
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < give_up_s, "it never answered"
                try:
                    client.get("/decisions")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15)


def test_the_desktop_example_decides_and_learns(tmp_path: Path, shop_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "desktop.py", "home", shop_bundle],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["more from garden", "  because: you looked at garden again"]
    assert lines[-2:] == ["return_item: kept on this device as an example", "next time: return_item"]
    assert done.stderr == ""


def test_the_web_example_keeps_nothing_before_consent_and_decides_after_it(web: httpx.Client) -> None:
    viewed = {"type": "track", "event": "Product Viewed", "properties": {"product_id": "p-7", "card": "4111"}}
    assert web.post("/events", json=viewed).json()["reason"] == "no_consent"
    assert web.put("/consents/personalisation").status_code == 200
    kept = web.post("/events", json=viewed).json()
    assert (kept["kept"], kept["dropped"]) == (True, ["card"])

    refused = web.post("/events", json={"type": "track", "event": "Product Viewed", "properties": {"position": "x"}})
    assert refused.status_code == 422
    assert list(refused.json()["detail"]) == ["properties.position"]

    answer = web.post("/chat", json={"text": "where has my parcel got to?"}).json()
    assert answer["text"] == "I will check the delivery. Which order do you mean?"
    assert answer["reasons"][-1] == "you looked at 1 products in this hour"
    (decision,) = web.get("/decisions").json()
    assert (decision["kind"], decision["chosen"]) == ("answer", "track_order")


def test_the_web_example_answers_to_no_other_name(web: httpx.Client) -> None:
    assert web.get("/decisions", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("name", ["desktop.py", "web.py"])
def test_an_example_has_at_most_forty_lines_of_code(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    module = ast.parse(text)
    docstring = module.body[0].end_lineno or 0
    code = [line for line in text.splitlines()[docstring:] if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 40, f"{name} has {len(code)}"
