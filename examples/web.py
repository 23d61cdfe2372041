"""A local web app in a few lines, for asyncio: events in, answers and decisions out.

Run: python examples/web.py HOME BUNDLE PORT
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from edge_client import AsyncEdgeClient, errors


def app_for(home: str, bundle: str) -> FastAPI:
    @asynccontextmanager
    async def assistant(app: FastAPI) -> AsyncIterator[None]:
        async with await AsyncEdgeClient.open(
            home, key="correct horse battery staple", bundle=bundle
        ) as app.state.client:
            yield

    app = FastAPI(lifespan=assistant, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])  # against DNS rebinding

    @app.put("/consents/{purpose}")  # the page asks first
    async def consent(purpose: str) -> dict[str, Any]:
        return (await app.state.client.consent.grant(purpose)).document()

    @app.post("/events")
    async def receive(event: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        try:
            return (await app.state.client.capture.receive(event)).__dict__
        except errors.CaptureError as error:
            raise HTTPException(422, error.fields) from error

    @app.post("/chat")
    async def chat(text: Annotated[str, Body(embed=True, max_length=1000)]) -> dict[str, Any]:
        reply = await app.state.client.respond(text)
        seen = (await app.state.client.capture.windows())["counts"].get("product_viewed", {}).get("1h", 0)
        return {"text": reply.text, "reasons": [*reply.reasons, f"you looked at {seen} products in this hour"]}

    @app.get("/decisions")
    async def decisions() -> list[dict[str, Any]]:
        return await app.state.client.decisions.recent()

    return app


if __name__ == "__main__":
    uvicorn.run(app_for(sys.argv[1], sys.argv[2]), host="127.0.0.1", port=int(sys.argv[3]), access_log=False)
