"""The privacy centre in headless Chromium: without scripts, by mouse and keys; attacks of other pages; what reads badly is found.

Pictures of all pages go to the folder that TACIT_SCREENSHOTS names, if it does.
"""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser
from page_check import CHECK

from edge_client.client import EdgeClient
from edge_client.know.store import Store
from edge_client.share.device import GATE_TABLE
from edge_client.share.probes import system_probes
from edge_client.share.schedule_rules import ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.tokens import Apps
from shared_models.errors import StoreError

pytestmark = pytest.mark.deep
PAGES = ("known", "consents", "left", "decisions", "unasked", "rights")
CANARY = "Quokkaville"


@pytest.fixture
def sidecar(device: EdgeClient, apps: Apps) -> Iterator[Sidecar]:
    scheduler = Scheduler(ScheduleRules(), system_probes(), device.config.clock, device.store.table(SCHEDULE_TABLE))
    made = Sidecar(device, apps, scheduler=scheduler)
    yield made
    made.close()


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "chromium") as opened:
        yield opened


def enter(tab: Browser, address: str, sidecar: Sidecar) -> str:
    """Through the one-time link; returns the session's root."""
    tab.open(address + sidecar.centre_path())
    give_up_s = time.monotonic() + 20.0
    while not (where := tab.address()).endswith("/known"):
        assert time.monotonic() < give_up_s, f"it stayed at {where}"
    tab.open(where)
    return where.removesuffix("/known")


def test_a_user_switches_corrects_pauses_and_erases_without_scripts(
    tab: Browser, address: str, sidecar: Sidecar, device: EdgeClient
) -> None:
    tab.without_scripts()
    root = enter(tab, address, sidecar)

    tab.open(f"{root}/consents")
    tab.click("article[aria-labelledby=c-personalisation] button.switch")
    assert device.consent.is_granted("personalisation")
    assert "Changed. It holds from now on." in tab.text()

    device.capture.receive({"type": "identify", "traits": {"plan": "gold", "home_city": CANARY}})
    device.capture.receive({"type": "track", "event": "Product Viewed", "properties": {"product_id": "p-7"}})
    device.decisions.record("offer", "late_checkout", ["you often leave in the afternoon", "your plan is gold"])
    body = {
        "purpose": "intent-model",
        "contribution": "intent_head",
        "rho": 0.05,
        "note": "",
        "round_id": 3,
        "time_s": 1.79e9,
    }
    device.store.table(GATE_TABLE).put(
        "receipt/t/3", {"index": 0, "time_s": 1.79e9, "kind": "contribution", "body": body}
    )

    tab.open(f"{root}/known")
    assert CANARY in tab.text()
    tab.type("#v-plan", "basic")
    tab.click("article[aria-labelledby=a-plan] form:first-child button")
    assert device.profile.get("plan").value == "basic"  # type: ignore[union-attr]
    assert "you corrected it" in tab.text()

    tab.open(f"{root}/left")
    assert "not yet provable" in tab.text()
    tab.click("button[value='8']")
    assert "Paused until" in tab.text()

    folder = os.environ.get("TACIT_SCREENSHOTS")
    for page in PAGES:
        tab.open(f"{root}/{page}")
        if folder:
            tab.picture(Path(folder) / f"{page}.png")
    assert tab.complaints == []
    assert {url.split("/")[2] for url in tab.requested if url.startswith("http")} == {address.split("/")[2]}

    tab.open(f"{root}/rights")
    tab.point("#sure")
    tab.click("button.danger")
    assert "is erased" in tab.text()
    if folder:
        tab.picture(Path(folder) / "erased.png")
    assert device.store.closed
    left = [path for path in device.store.folder.rglob("*") if path.is_file() and path.parent.name != "sidecar"]
    assert left == []
    tab.open(f"{root}/known")
    assert CANARY not in tab.text()


def test_a_withdrawal_in_the_centre_leaves_nothing_to_contribute(
    tab: Browser, address: str, sidecar: Sidecar, device: EdgeClient
) -> None:
    device.consent.grant("intent-model")
    device.consent.grant("personal-learning")
    root = enter(tab, address, sidecar)
    tab.open(f"{root}/consents")
    tab.click("article[aria-labelledby=c-intent-model] button.switch")
    # What the gate asks before anything is computed (privacy.gate).
    assert device.consent.granted_since("intent-model") is None
    assert device.training_examples()[1] == []
    assert device.consent.is_granted("personal-learning")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 320])
def test_contrast_labels_sizes_and_order_satisfy_wcag_aa(
    tab: Browser, address: str, sidecar: Sidecar, consenting: EdgeClient, scheme: str, width: int
) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"plan": "gold", "home_city": CANARY}})
    consenting.capture.receive({"type": "page", "name": "Start"})
    consenting.decisions.record("offer", "late_checkout", ["you often leave in the afternoon"])
    tab.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    root = enter(tab, address, sidecar)
    for page in PAGES:
        tab.open(f"{root}/{page}")
        assert tab.evaluate(CHECK) == [], page
    folder = os.environ.get("TACIT_SCREENSHOTS")
    if folder:
        tab.picture(Path(folder) / f"rights-{scheme}-{width}.png")


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[str]:
    """A page of somebody else, on another port of this machine: for a browser another origin, for cookies the same host."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>evil</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        cookies: list[str] = []  # noqa: RUF012 - one server, one test

        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            Quiet.cookies.append(self.headers.get("Cookie", ""))
            super().do_GET()

        def log_message(self, *given: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    assert not any("tacit" in cookie for cookie in Quiet.cookies), "a cookie of the centre was sent to another program"


def test_another_page_reads_nothing_and_changes_nothing(
    tab: Browser, address: str, sidecar: Sidecar, consenting: EdgeClient, token: str, other_site: str
) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"home_city": CANARY}})
    root = enter(tab, address, sidecar)
    tab.open(f"{other_site}/index.html")
    tab.open(f"{other_site}/centre/index.html")
    tab.open(f"{other_site}/index.html")
    tried = tab.evaluate(
        f"""
        (async () => {{
          const tell = async (call) => {{
            try {{ const r = await call();
              return r.type + ' ' + r.status + ' ' + await r.text() }} catch (e) {{ return 'blocked' }} }}
          const auth = {{ Authorization: 'Bearer {token}', 'Content-Type': 'application/json' }}
          return [
            await tell(() => fetch('{root}/known', {{ credentials: 'include' }})),
            await tell(() => fetch('{root}/known', {{ credentials: 'include', mode: 'no-cors' }})),
            await tell(() => fetch('{address}/healthz')),
            await tell(() => fetch('{address}/v1/export', {{ headers: auth }})),
            await tell(() => fetch('{address}/v1/events', {{ method: 'POST', headers: auth,
              body: '{{"type":"page","name":"planted"}}' }})),
            await tell(() => fetch('{address}/v1/events', {{ method: 'POST', mode: 'no-cors',
              body: '{{"type":"page","name":"planted"}}' }})),
            await tell(() => fetch('{root}/do/consent', {{ method: 'POST', mode: 'no-cors', credentials: 'include',
              body: new URLSearchParams({{ purpose: 'personalisation', to: 'off' }}) }})),
          ]
        }})()
        """
    )
    for answer in tried:
        assert answer == "blocked" or answer.startswith("opaque 0"), tried
        assert CANARY not in answer
    assert len(consenting.capture.events()) == 1
    assert consenting.consent.is_granted("personalisation")
    # And not in a frame.
    tab.evaluate(f"document.body.innerHTML = `<iframe src='{root}/known'></iframe>`")
    tab.open(f"{other_site}/index.html")
    assert CANARY not in tab.html()


def test_a_page_of_a_registered_origin_may_call(
    tab: Browser, address: str, device: EdgeClient, apps: Apps, other_site: str
) -> None:
    device.consent.grant("personalisation")
    token = apps.register("web-view", [other_site])
    tab.open(f"{other_site}/index.html")
    answer = tab.evaluate(
        f"fetch('{address}/v1/events', {{ method: 'POST', headers: {{ Authorization: 'Bearer {token}', "
        "'Content-Type': 'application/json' }, body: JSON.stringify({ type: 'page', name: 'Start' }) }).then(r => r.json())"
    )
    assert answer["kept"] is True
    assert len(device.capture.events()) == 1


def test_what_was_erased_cannot_be_opened_again(
    tab: Browser, address: str, sidecar: Sidecar, consenting: EdgeClient
) -> None:
    home = consenting.store.folder
    consenting.capture.receive({"type": "identify", "traits": {"home_city": CANARY}})
    root = enter(tab, address, sidecar)
    tab.open(f"{root}/rights")
    tab.point("#sure")
    tab.click("button.danger")
    with pytest.raises(StoreError):
        consenting.profile.values()
    with Store(home, key=bytes(range(32))) as anew:
        assert anew.describe()["records"] == {}
