"""The privacy centre names a language model on another machine, if one is asked."""

from __future__ import annotations

from pathlib import Path

from sidecar_calls import BASE, InProcess, Visitor

from edge_client import EdgeConfig
from edge_client.answer.local_model import LocalModelConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.tokens import Apps


def test_the_privacy_centre_shows_a_language_model_on_another_machine(tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = EdgeConfig(
        local_model=LocalModelConfig(url="https://llm.elsewhere.example/v1", model="big", allow_remote=True),
        model_may_see=("words", "reasons"),
    )
    with EdgeClient(Store(home, key=bytes(range(32))), BundleStore(home / "bundle"), config) as client:
        sidecar = Sidecar(client, Apps(home))
        try:
            token = Apps(home).register("shop", [BASE], ("capture", "decide", "rights"))
            visitor = Visitor(InProcess(sidecar, token))
            shown = "".join(visitor.see(page) for page in ("known", "consents", "left", "decisions", "rights"))
            assert "llm.elsewhere.example" in shown
        finally:
            sidecar.close()
