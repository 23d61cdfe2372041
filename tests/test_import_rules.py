"""Who may import whom, how light a device stays, and which names are public."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_bundle import RealBundle

import edge_client

ROOT = Path(__file__).parents[1]
OURS = ("aggregator", "edge_client", "privacy", "shared_models")
MAY_IMPORT = {
    "shared_models": {"shared_models"},
    "privacy": {"privacy", "shared_models"},
    "edge_client": {"edge_client", "privacy", "shared_models"},
    "aggregator": {"aggregator", "privacy", "shared_models"},
}
MAY_IMPORT_THE_DEVICE = ("aggregator/simulate.py", "aggregator/demo/")
FORBIDDEN_ON_DEVICES = (
    "dp_accounting",
    "fastapi",
    "flwr",
    "grpc",
    "onnx",
    "opacus",
    "opendp",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "torch",
    "transformers",
    "z3",
)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide who imports whom"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            given = node.args[0] if node.args else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield node.lineno, given.value


def sources(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    assert sources(package), f"{package} holds no code"
    for path in sources(package):
        relative = path.relative_to(ROOT).as_posix()
        allowed = set(MAY_IMPORT[package])
        if relative.startswith(MAY_IMPORT_THE_DEVICE):
            allowed.add("edge_client")
        for line, name in imports_of(path):
            top = name.partition(".")[0]
            assert top not in OURS or top in allowed, f"{relative}:{line} imports {name}"
            assert top not in ("tests", "benchmarks", "examples"), f"{relative}:{line} imports {name}"


def test_only_the_agent_names_heavy_packages_on_the_device() -> None:
    for path in sources("edge_client"):
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith(("edge_client/share/agent/", "edge_client/sidecar/")):
            continue
        for line, name in imports_of(path):
            assert name.partition(".")[0] not in FORBIDDEN_ON_DEVICES, f"{relative}:{line} imports {name}"


def test_nothing_is_ever_unpickled() -> None:
    for package in OURS:
        for path in sources(package):
            for line, name in imports_of(path):
                tops = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
                assert name.partition(".")[0] not in tops, f"{path}:{line} imports {name}"


CHAT_TURN = """
import sys
import edge_client
assert {name.partition(".")[0] for name in sys.modules}.isdisjoint(%(forbidden)r)
from edge_client import EdgeClient, errors
home, bundle = sys.argv[1:]
with EdgeClient.open(home, key=bytes(32), bundle=bundle) as client:
    client.consent.grant("personal-learning")
    client.consent.grant("intent-model")
    reply = client.respond("Book a flight to Lisbon")
    client.feedback(reply, intent="book_hotel")
    client.define_intent("water_plants", ["water my plants"])
    client.respond("please water my plants")
    assert client.training_examples()[0].shape == (1, 384)
    client.inspect()
    client.forget()
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & set(%(forbidden)r)))
"""


def test_a_whole_chat_turn_loads_nothing_heavy(real_bundle: RealBundle, tmp_path: Path) -> None:
    program = CHAT_TURN % {"forbidden": FORBIDDEN_ON_DEVICES}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "home"), str(real_bundle.folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_public_names_of_the_device() -> None:
    assert edge_client.__all__ == [
        "Alternative",
        "AsyncEdgeClient",
        "EdgeClient",
        "EdgeConfig",
        "FeedbackResult",
        "Recognition",
        "Reply",
        "errors",
    ]
    assert dir(edge_client) == sorted(edge_client.__all__)
    for name in edge_client.__all__:
        assert getattr(edge_client, name) is not None
    with pytest.raises(AttributeError):
        _ = edge_client.Nothing
    public = [name for name in vars(edge_client.EdgeClient) if not name.startswith("_")]
    assert sorted(public) == [
        "accept",
        "capture",
        "close",
        "decisions",
        "define_intent",
        "delivery",
        "device_port",
        "export",
        "feedback",
        "forget",
        "inspect",
        "intake",
        "intents",
        "model",
        "new_conversation",
        "nightly",
        "open",
        "profile",
        "published_policy",
        "react",
        "recognize",
        "refresh",
        "remove_intent",
        "respond",
        "rights",
        "schema",
        "state",
        "status",
        "training_examples",
        "trust",
        "why",
    ]
