"""A real publisher with its keys, its officer and its devices, for tests of what is published and of what arrives."""

from __future__ import annotations

import contextlib
import copy
import functools
import http.server
import itertools
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nacl.signing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from aggregator.publish import BundleContents, create_repository, publish, refresh_timestamp
from edge_client.bundles import BundleStore
from privacy.keys import load_signing_key
from privacy.policy_role import sign_policy_role
from shared_models.canonical import seal_envelope
from shared_models.rules.ruleset import Rule, RuleSet


class PublishedFleet:
    """A fleet's publisher on disk with its keys, its officer, a clock that tests move, and devices that read from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 1_800_000_000.0
        self.folder = root / "bundle"
        self.keys_dir = root / "keys"
        self.officer = nacl.signing.SigningKey.generate()
        self.aggregator = nacl.signing.SigningKey.generate()
        self.encoder = root / "encoder.onnx"
        self.tokenizer = root / "tokenizer.json"
        self.encoder.write_bytes(b"encoder one" * 5000)
        self.tokenizer.write_text('{"model": 1}')
        create_repository(
            self.folder,
            officer_public_key=bytes(self.officer.verify_key),
            aggregator_public_key=bytes(self.aggregator.verify_key),
            fleet="test fleet",
            keys_dir=self.keys_dir,
            now=self.now_s,
        )

    def copied_to(self, root: Path) -> PublishedFleet:
        """The same fleet once more, in another folder: building one costs many disk syncs."""
        twin = copy.copy(self)
        twin.root, twin.folder, twin.keys_dir = root, root / "bundle", root / "keys"
        twin.encoder, twin.tokenizer = root / "encoder.onnx", root / "tokenizer.json"
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return twin

    @property
    def trust(self) -> Path:
        return self.folder / "trust.json"

    def clock(self) -> float:
        return self.now_s

    def contents(self, version: int, **changes: Any) -> BundleContents:
        whole: dict[str, Any] = {
            "encoder_model": self.encoder,
            "tokenizer": self.tokenizer,
            "head": b"head %d" % version,
            "labels": ("greeting", "thanks"),
            "rules": RuleSet((Rule("r1", "deny", ("thanks",), "because"),)),
            "templates": {"greeting": ("Hello.", "Good day."), "unsure": ("Pardon?",)},
            "intent_labels": {"greeting": "say hello"},
            "domain": "tiny",
            "version": version,
        }
        return BundleContents(**{**whole, **changes})

    def publish(self, version: int, **changes: Any) -> int:
        return publish(self.folder, self.contents(version, **changes), self.now_s, keys_dir=self.keys_dir)

    def refresh_timestamp(self) -> None:
        refresh_timestamp(self.folder, keys_dir=self.keys_dir, now=self.now_s)

    def policy(self, text: str, version: int, officer: nacl.signing.SigningKey | None = None) -> dict[str, bytes]:
        """The two things an officer hands over, as arguments of `publish`."""
        signer = officer or self.officer
        envelope = seal_envelope("application/vnd.tacit.policy+yaml", text.encode(), signer).to_bytes()
        expires = datetime.fromtimestamp(self.now_s, UTC) + timedelta(days=14)
        return {"policy": envelope, "policy_role": sign_policy_role(signer, envelope, version, expires)}

    def device(self, name: str = "device", **options: Any) -> BundleStore:
        return BundleStore(self.root / name, self.clock, **options)

    def copy(self, name: str) -> Path:
        """The published folder as it is now, for an attacker to keep."""
        return Path(shutil.copytree(self.folder, self.root / name))

    def signer(self, name: str) -> CryptoSigner:
        key = load_signing_key(self.keys_dir / f"{name}.key")
        return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(key)))

    def rewrite(
        self,
        role: str,
        change: Callable[[Any], None],
        sign_with: Sequence[CryptoSigner],
        also: Mapping[str, bytes] | None = None,
    ) -> None:
        """Publish role metadata that the honest publisher would not: changed, signed by `sign_with`, well bound above."""
        metadata_dir = self.folder / "metadata"
        timestamp = Metadata[Timestamp].from_file(str(metadata_dir / "timestamp.json"))
        number = timestamp.signed.snapshot_meta.version
        snapshot = Metadata[Snapshot].from_file(str(metadata_dir / f"{number}.snapshot.json"))
        meta = snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            metadata = Metadata(Targets(version=1, expires=datetime.fromtimestamp(self.now_s, UTC) + timedelta(days=9)))
        else:
            metadata = Metadata[Targets].from_file(str(metadata_dir / f"{meta.version}.{role}.json"))
            metadata.signed.version += 1
        change(metadata.signed)
        metadata.signatures.clear()
        for signer in sign_with:
            metadata.sign(signer, append=True)
        raw = metadata.to_bytes()
        (metadata_dir / f"{metadata.signed.version}.{role}.json").write_bytes(raw)
        snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        snapshot.signed.version += 1
        snapshot.sign(self.signer("snapshot"))
        (metadata_dir / f"{snapshot.signed.version}.snapshot.json").write_bytes(snapshot.to_bytes())
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.sign(self.signer("timestamp"))
        (metadata_dir / "timestamp.json").write_bytes(timestamp.to_bytes())
        for name, data in (also or {}).items():
            self.put_target(name, data)

    def put_target(self, name: str, data: bytes) -> TargetFile:
        """Write a target's bytes where clients look for them."""
        target = TargetFile.from_data(name, data, ["sha256"])
        path = self.folder / "targets" / target.get_prefixed_paths()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return target


def killed_at_each_step(action: Callable[[], object]) -> Iterator[int]:
    """Run `action` in child processes, the n-th of them killed by SIGKILL just before its n-th change of the disk.

    Yields n after each kill; ends when the action got through.
    """
    for step in itertools.count(1):
        child = os.fork()
        if child == 0:
            try:
                _die_before_change(step)
                action()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a forked child must never return into the test run
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        yield step


def _die_before_change(step: int) -> None:
    left = step

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "symlink"):
        setattr(os, name, deadly(getattr(os, name)))
    # A step like the others, but not carried out: what a killed process wrote is there without it, and it takes most of the time.
    os.fsync = deadly(lambda descriptor: None)


@contextlib.contextmanager
def serving(folder: Path | None, handler: type[http.server.BaseHTTPRequestHandler] | None = None) -> Iterator[str]:
    """Serve `folder` (or whatever `handler` does) on a free loopback port; yields the base URL without a slash."""
    chosen = handler or functools.partial(_QuietFiles, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), chosen)  # type: ignore[arg-type]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Tests need no access log."""
