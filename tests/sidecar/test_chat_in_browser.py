"""The chat page in headless Chromium, with the real model: talking, suggestions, thumbs, reasons, keys, attacks, small screens.

Pictures go to the folder that TACIT_SCREENSHOTS names, if it does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import Browser, browser
from page_check import CHECK

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.decide.follow_ups import FollowUp
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.serving import loopback_socket, served
from edge_client.sidecar.tokens import Apps

pytestmark = pytest.mark.deep
ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"


@pytest.fixture(scope="module")
def running(travel: BundleStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    home: Path = tmp_path_factory.mktemp("chat") / "home"
    with EdgeClient(Store(home, key=bytes(32)), travel, EdgeConfig(bundles=travel)) as client:
        for purpose in ("personalisation", "personal-learning"):
            client.consent.grant(purpose)
        sidecar = Sidecar(client, Apps(home))
        with served(sidecar, loopback_socket("127.0.0.1", 0)) as address:
            yield SimpleNamespace(client=client, sidecar=sidecar, address=address)


@pytest.fixture
def tab(running: SimpleNamespace, tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "chromium") as opened:
        yield opened


def until(tab: Browser, condition: str) -> None:
    give_up_s = time.monotonic() + 30.0
    while not tab.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < give_up_s, f"never: {condition}\n{tab.text()[-2000:]}"
        time.sleep(0.05)


def enter(tab: Browser, running: SimpleNamespace) -> None:
    """Through the one-time link, which goes on to the page by itself."""
    tab.open(running.address + running.sidecar.chat_path())
    give_up_s = time.monotonic() + 20.0
    while not tab.address().endswith("/chat"):
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
    tab.steadily(lambda: until(tab, "document.readyState === 'complete' && document.getElementById('say')"))


def say(tab: Browser, text: str) -> None:
    """Type it, press Enter, and wait for the answer."""
    before = tab.evaluate("document.querySelectorAll('.theirs:not(.waiting)').length")
    tab.type("#say", text)
    tab.do("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    tab.do("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    until(tab, f"document.querySelectorAll('.theirs:not(.waiting)').length > {before}")


def picture(tab: Browser, name: str) -> None:
    if folder := os.environ.get("TACIT_SCREENSHOTS"):
        tab.picture(Path(folder) / f"{name}.png")


def test_a_user_talks_takes_suggestions_and_asks_why(tab: Browser, running: SimpleNamespace) -> None:
    enter(tab, running)
    picture(tab, "chat-welcome")
    tab.point(".opener")
    until(tab, "document.querySelector('.theirs:not(.waiting)')")
    say(tab, "I want to go somewhere warm in May for under 120 euros a day")
    assert tab.evaluate("document.querySelectorAll('.card').length") >= 2
    picture(tab, "chat-cards")
    card = tab.evaluate(
        "(() => { const c = document.querySelector('.card');"
        "return { title: c.querySelector('h2').textContent, price: c.querySelector('.price').textContent } })()"
    )
    assert "€" in card["price"]

    # Why: the reasons are those of the assistant, not of the page.
    tab.point(".card .link")
    until(tab, "document.querySelector('.card .why li')")
    shown = tab.evaluate("[...document.querySelectorAll('.card .why li')].map(e => e.textContent)")
    logged = running.client.decisions.recent(20)
    first = next(entry for entry in logged if entry["reasons"] and entry["reasons"][0] in shown)
    assert set(first["reasons"]) <= set(shown)
    assert tab.evaluate("document.querySelector('.card .link').getAttribute('aria-expanded')") == "true"
    picture(tab, "chat-why")

    tab.point(".card:nth-child(2) .thumb[aria-expanded]")
    until(tab, "document.querySelector('.card:nth-child(2) .because:not([hidden])')")
    picture(tab, "chat-because")
    tab.point(".card:nth-child(2) .because .chip")
    until(tab, "document.querySelector('.card:nth-child(2) .result').textContent")
    assert tab.evaluate("document.querySelector('.card:nth-child(2)').classList.contains('down')")
    tab.point(".card .thumb")
    until(tab, "document.querySelector('.card .result').textContent")
    assert tab.evaluate("document.querySelector('.card .thumb').getAttribute('aria-pressed')") == "true"
    assert "kept on this device" in tab.evaluate("document.querySelector('.card .result').textContent")
    picture(tab, "chat-reacted")

    # What the assistant says by itself comes on this page too, with its reason; what the user makes of it is kept.
    room = running.client.delivery
    now_s = running.client.config.clock()
    trip = {"first": "2027-05-01", "last": "2027-05-08"}
    room.set_quiet_hours([])
    plan = FollowUp(
        "still_thinking:lisbon:2027-05-01", "still_thinking", now_s - 60.0, now_s + 86_400.0, "lisbon", trip
    )
    assert room.plan([plan], asked_for=True)
    tab.open(tab.address())
    until(tab, "document.querySelector('.unasked')")
    assert "Lisbon" in tab.evaluate("document.querySelector('.unasked .bubble').textContent")
    tab.point(".unasked .link")
    until(tab, "document.querySelector('.unasked .why li')")
    tab.point(".unasked .chip")
    until(tab, "document.querySelector('.unasked .result').textContent")
    picture(tab, "chat-unasked")
    assert room.quality()["acted"] == 1

    # Loaded again, all of it is there, pressed thumbs included.
    tab.open(tab.address())
    until(tab, "document.querySelectorAll('.card').length >= 2")
    assert tab.evaluate("document.querySelector('.card .thumb').getAttribute('aria-pressed')") == "true"
    assert tab.complaints == []
    own = {url.split("/")[2] for url in tab.requested if url.startswith("http")}
    assert own == {running.address.split("/")[2]}

    tab.point("#new")
    until(tab, "!document.querySelector('.turn') && !document.getElementById('welcome').hidden")
    tab.click("nav a.button")
    assert "What is known" in tab.text()


def test_what_was_understood_wrongly_is_corrected(tab: Browser, running: SimpleNamespace) -> None:
    enter(tab, running)
    say(tab, "blub")
    tab.point(".foot .thumb[aria-expanded]")
    until(tab, "document.querySelector('.because:not([hidden]) select option[value=book_hotel]')")
    tab.evaluate("document.querySelector('.because select').value = 'book_hotel'")
    picture(tab, "chat-meant")
    tab.point(".because button")
    until(tab, "document.querySelector('.result').textContent")
    assert "kept on this device" in tab.text()
    say(tab, "blub")
    assert running.client.recognize("blub").intent == "book_hotel"


def test_nothing_that_anybody_wrote_is_read_as_markup(tab: Browser, running: SimpleNamespace) -> None:
    enter(tab, running)
    say(tab, ATTACK)
    assert tab.evaluate("document.querySelector('.mine .bubble').textContent").endswith(ATTACK)
    assert tab.evaluate("document.querySelectorAll('main img').length") == 0
    assert tab.evaluate("document.scripts.length") == 1
    tried = tab.evaluate(
        "(() => { try { document.body.insertAdjacentHTML('beforeend', '<p id=planted>'); return 'made' }"
        " catch (error) { return error.name } })()"
    )
    assert tried == "TypeError", "trusted types stand behind it"
    complained = tab.evaluate(
        "fetch('https://example.org/').then(() => 'sent', () => 'blocked')",
    )
    assert complained == "blocked"


def test_the_language_of_a_reply_is_marked(tab: Browser, running: SimpleNamespace) -> None:
    enter(tab, running)
    say(tab, "Ich möchte im Mai ans Meer, höchstens 120 Euro am Tag")
    picture(tab, "chat-german")
    assert tab.evaluate("document.querySelector('.theirs').lang") == "de"
    assert "pro" in tab.evaluate("document.querySelector('.price').textContent")
    say(tab, "Quiero ir a la playa en mayo")
    assert tab.evaluate("[...document.querySelectorAll('.theirs')].at(-1).lang") == "es"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 320])
def test_contrast_labels_sizes_and_order_satisfy_wcag_aa(
    tab: Browser, running: SimpleNamespace, scheme: str, width: int
) -> None:
    tab.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    enter(tab, running)
    assert tab.evaluate(CHECK) == []
    picture(tab, f"chat-welcome-{scheme}-{width}")
    say(tab, "somewhere warm by the sea in June")
    tab.point(".card .link")
    until(tab, "document.querySelector('.card .why li')")
    tab.point(".card .thumb[aria-expanded]")
    say(tab, "x" * 300)
    assert tab.evaluate(CHECK) == []
    picture(tab, f"chat-{scheme}-{width}")
