"""Headless Chromium over its DevTools protocol: a real browser for tests, without a driver package. Fails where there is none."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.sync.client import connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ENOUGH_S = 30.0


T = TypeVar("T")


class DevToolsError(Exception):
    """The browser could not carry a command out."""


class Browser:
    """One tab."""

    def __init__(self, address: str) -> None:
        self._opened = connect(address, max_size=64 << 20)
        self._line = self._opened.__enter__()
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        """Every address that was asked for."""
        self.complaints: list[str] = []
        """What the console and the content security policy said."""
        self._loaded = 0
        self._loaders: set[str] = set()
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.do(f"{domain}.enable")
        self.do("Page.setLifecycleEventsEnabled", enabled=True)

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        self._line.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._line.recv(timeout=ENOUGH_S))
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise DevToolsError(message["error"])
                result: dict[str, Any] = message["result"]
                return result

    def steadily(self, act: Callable[[], T]) -> T:
        """What `act` gives; once more, while one page goes and the next comes."""
        give_up_s = time.monotonic() + ENOUGH_S
        while True:
            try:
                return act()
            except DevToolsError:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.05)

    def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        before = self._loaded
        loader = self.do("Page.navigate", url=address).get("loaderId")
        # Of this very navigation: the page before may still be loading, and its end is not what is waited for.
        self._wait(lambda: loader in self._loaders if loader else self._loaded > before)

    def click(self, selector: str) -> None:
        """Click, with the mouse, what `selector` finds first, and wait for the page that follows."""
        before = self._loaded
        self.point(selector)
        self._wait(lambda: self._loaded > before)

    def point(self, selector: str) -> None:
        """Click, and wait for nothing."""

        def middle() -> dict[str, Any]:
            node = self._node(selector)
            self.do("DOM.scrollIntoViewIfNeeded", nodeId=node)
            box = self.do("DOM.getBoxModel", nodeId=node)["model"]["content"]
            return {"x": (box[0] + box[4]) / 2, "y": (box[1] + box[5]) / 2, "button": "left", "clickCount": 1}

        spot = self.steadily(middle)
        self.do("Input.dispatchMouseEvent", type="mousePressed", **spot)
        self.do("Input.dispatchMouseEvent", type="mouseReleased", **spot)

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field, by keys."""
        self.steadily(lambda: self.do("DOM.focus", nodeId=self._node(selector)))
        self.do("Input.dispatchKeyEvent", type="keyDown", key="a", code="KeyA", modifiers=2, commands=["selectAll"])
        self.do("Input.dispatchKeyEvent", type="keyUp", key="a", code="KeyA", modifiers=2)
        self.do("Input.insertText", text=text)

    def address(self) -> str:
        """Where the tab is."""
        history = self.steadily(lambda: self.do("Page.getNavigationHistory"))
        return str(history["entries"][history["currentIndex"]]["url"])

    def html(self) -> str:
        return self.steadily(lambda: str(self.do("DOM.getOuterHTML", nodeId=self._root())["outerHTML"]))

    def text(self) -> str:
        """What can be read, without marks."""
        return " ".join(re.sub(r"<[^>]+>", " ", self.html()).split())

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript in the page, as its console would give it."""
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def without_scripts(self) -> None:
        self.do("Emulation.setScriptExecutionDisabled", value=True)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.do("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def _root(self) -> int:
        return int(self.do("DOM.getDocument", depth=0)["root"]["nodeId"])

    def _node(self, selector: str) -> int:
        node = int(self.do("DOM.querySelector", nodeId=self._root(), selector=selector)["nodeId"])
        assert node, f"the page has no {selector}"
        return node

    def _note(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Page.lifecycleEvent" and given.get("name") == "load":
            self._loaders.add(given["loaderId"])
        elif method == "Network.requestWillBeSent":
            self.requested.append(given["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(f"{given['entry'].get('text')} {given['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(repr(given.get("args")))

    def _wait(self, loaded: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + ENOUGH_S
        while not loaded():
            assert time.monotonic() < give_up_s, "the page never loaded"
            try:
                self._note(json.loads(self._line.recv(timeout=1.0)))
            except TimeoutError:
                continue


@contextmanager
def browser(folder: Path, *options: str) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`, that may reach this machine only."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail("no Chromium on PATH: this test looks at the privacy centre in a real browser; install chromium")
    process = subprocess.Popen(
        [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--no-default-browser-check",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            "--remote-debugging-port=0",
            "--window-size=1000,900",
            f"--user-data-dir={folder}",
            *options,
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tab = Browser(_address(folder, process))
        try:
            yield tab
        finally:
            tab.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Of the first tab."""
    give_up_s = time.monotonic() + 2 * ENOUGH_S
    file = folder / "DevToolsActivePort"
    while time.monotonic() < give_up_s:
        assert process.poll() is None, "the browser ended at once"
        if file.exists() and (lines := file.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError("the browser never opened its debugging port")
