"""Callers of a sidecar: an app in this process, and somebody in a browser before the privacy centre."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx

from edge_client.sidecar.app import Sidecar

BASE = "http://127.0.0.1:8765"
ORIGIN = "https://shop.example"
"""The origin of the test app's pages."""


class InProcess:
    """Calls of a sidecar without a socket, as httpx makes them."""

    def __init__(self, sidecar: Sidecar, token: str) -> None:
        self.sidecar, self.token = sidecar, token

    def __call__(
        self, method: str, path: str, *, token: str | None = "own", base: str = BASE, **given: Any
    ) -> httpx.Response:
        headers = dict(given.pop("headers", {}))
        cookies = given.pop("cookies", None)
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token if token == 'own' else token}")

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.sidecar.asgi, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=base, cookies=cookies) as caller:
                return await caller.request(method, path, headers=headers, **given)

        return asyncio.run(call())


class Visitor:
    """Somebody in a browser before the privacy centre: follows its link, keeps its cookie, fills its forms in."""

    def __init__(self, call: InProcess) -> None:
        self._call = call
        opened = call("GET", call.sidecar.centre_path(), token=None)
        assert opened.status_code == 200, opened.text
        self.cookies = dict(opened.cookies)
        self.root = re.search(r'url=(/centre/[^"/]+)/known', opened.text)[1]  # type: ignore[index]

    def see(self, page: str) -> str:
        shown = self._call("GET", f"{self.root}/{page}", token=None, cookies=self.cookies)
        assert shown.status_code == 200, shown.text
        return shown.text

    def send(self, action: str, *, csrf: str | None = None, **fields: str) -> httpx.Response:
        token = re.search(r'name="csrf" value="([^"]+)"', self.see("rights"))[1] if csrf is None else csrf  # type: ignore[index]
        return self._call(
            "POST",
            f"{self.root}/{action}",
            token=None,
            cookies=self.cookies,
            data={"csrf": token, **fields},
            headers={"Origin": BASE},
        )
