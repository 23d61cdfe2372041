"""A whole fleet, and one user at the privacy centre in Chromium: what is switched off there is missing in the next round."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Browser, browser
from deployed import Deployed, agents_ready

pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]

NAMES = ("anna", "bert", "cleo")
CANARY = "quokkas zanzibar marmalade"


@contextmanager
def centre_of(deployed: Deployed, name: str, turn: int) -> Iterator[tuple[Browser, str]]:
    """The device's own page, as `tacit-device serve` shows it: a tab without scripts, and the session's root."""
    with (
        deployed.terminal(f"centre-{turn}", "tacit-device", "serve", "--port", 0, *deployed._of(name)) as serving,
        browser(deployed.folder / f"chromium-{turn}") as tab,
    ):
        said = serving.await_text(r"^Privacy centre.*$")
        link = re.search(r"http://\S+", said)
        assert link is not None
        tab.without_scripts()
        tab.open(link[0])
        give_up_s = time.monotonic() + 20.0
        while not (where := tab.address()).endswith("/known"):
            assert time.monotonic() < give_up_s, f"it stayed at {where}"
        yield tab, where.removesuffix("/known")


def one_round(deployed: Deployed, turn: int, names: tuple[str, ...]) -> str:
    """What the central team is told of a round to which the agents of `names` are online."""
    with agents_ready(deployed, names), deployed.terminal(f"run-{turn}", "tacit-fleet", "run", "fleet") as run:
        assert run.await_end(240.0) == 0, run.text()
        return run.text()


def test_a_consent_switched_off_in_the_browser_is_missing_in_the_next_round_and_erasure_leaves_nothing(
    tmp_path: Path,
) -> None:
    deployed = Deployed(tmp_path)
    deployed.set_up()
    deployed.enrol(NAMES, lambda _: [(CANARY, "renew_loan")])
    home = tmp_path / "device-anna"
    with deployed.serve() as serve:
        serve.await_text("^serving")
        assert "round 1: released over 3 devices" in one_round(deployed, 1, NAMES)

        with centre_of(deployed, "anna", 1) as (tab, root):
            tab.open(f"{root}/known")
            assert CANARY in tab.text()
            tab.open(f"{root}/left")
            assert "not yet provable" in tab.text()
            tab.open(f"{root}/consents")
            tab.click("article[aria-labelledby=c-intent-model] button.switch")
            assert "Changed. It holds from now on." in tab.text()
        assert "round 2: released over 2 devices" in one_round(deployed, 2, NAMES)
        assert deployed.device("anna", "shared").count("round ") == 1, "the first round only"

        with centre_of(deployed, "anna", 2) as (tab, root):
            tab.open(f"{root}/rights")
            tab.point("#sure")
            tab.click("button.danger")
            assert "is erased" in tab.text()
        assert [path for path in home.rglob("*") if path.is_file()] == []
        assert "round 3: released over 2 devices" in one_round(deployed, 3, NAMES[1:])
