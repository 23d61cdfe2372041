"""The aggregator's durable state: ledger, model and round counter, always changed together in one transaction.

SQLite by default, any database of SQLAlchemy by URL. A killed aggregator finds here exactly what it had committed: a round id is
taken (with its `reserve` entry) before the first message of the round is sent, so it is never used twice; a release is stored
with the model that came of it, so it is never drawn again. A sum that is no step of the model is stored itself, in the same
transaction; artefacts are made of stored sums (aggregator.artifacts).
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nacl.signing
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from privacy.clipping import IntArray
from privacy.ledger import Entry, next_entry, read_entries, sign_entry, verify_chain, verify_signatures
from shared_models.errors import CheckpointError, LedgerError

FORMAT = 1
KEPT_CHECKPOINTS = 3
_FORMAT_NOTE = "format"

_schema = sa.MetaData()
_ledger = sa.Table(
    "ledger",
    _schema,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("line", sa.LargeBinary, nullable=False),
)
_checkpoints = sa.Table(
    "checkpoints",
    _schema,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("arrays", sa.LargeBinary, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
_leaves = sa.Table(
    "leaves",
    _schema,
    sa.Column("round_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("commitment", sa.String(64), nullable=False),
)
_sums = sa.Table(
    "sums",
    _schema,
    sa.Column("round_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("grid", sa.LargeBinary, nullable=False),
)
_artifacts = sa.Table(
    "artifacts",
    _schema,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
_notes = sa.Table(
    "notes",
    _schema,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next round starts from."""

    labels: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    """[C, D], the model that devices train next."""
    velocity: npt.NDArray[np.float64]
    """[C, D], the server's momentum."""
    tail_sum: npt.NDArray[np.float64]
    """[C, D], sum of the last `tail_count` models, for tail averaging."""
    tail_count: int
    next_round_id: int
    rounds_done: int
    rounds_planned: int

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            format=np.int64(FORMAT),
            labels=np.array(self.labels, dtype=np.str_),
            weights=self.weights,
            velocity=self.velocity,
            tail_sum=self.tail_sum,
            counters=np.array([self.tail_count, self.next_round_id, self.rounds_done, self.rounds_planned], np.int64),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Checkpoint:
        """Raises CheckpointError; nothing is unpickled."""
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                if int(file["format"]) != FORMAT:
                    raise CheckpointError(f"checkpoint of format {int(file['format'])}, this version reads {FORMAT}")
                tail_count, next_round_id, rounds_done, rounds_planned = (int(value) for value in file["counters"])
                labels = tuple(str(label) for label in file["labels"])
                weights, velocity, tail_sum = file["weights"], file["velocity"], file["tail_sum"]
        except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"checkpoint is damaged: {error}") from error
        if not (
            weights.shape == velocity.shape == tail_sum.shape and weights.ndim == 2 and len(weights) == len(labels)
        ):
            raise CheckpointError("checkpoint is damaged: its arrays do not fit together")
        if not (np.isfinite(weights).all() and np.isfinite(velocity).all() and np.isfinite(tail_sum).all()):
            raise CheckpointError("checkpoint is damaged: it holds NaN or infinite values")
        return cls(labels, weights, velocity, tail_sum, tail_count, next_round_id, rounds_done, rounds_planned)

    def released_weights(self) -> npt.NDArray[np.float32]:
        """[C, D]: the tail average if there is one, else the current model."""
        if self.tail_count:
            return (self.tail_sum / self.tail_count).astype(np.float32)
        return self.weights


class FleetState:
    """One task's ledger and checkpoints. Open one per process; another writer is detected by the ledger's numbering."""

    def __init__(
        self, location: Path | str, key: nacl.signing.SigningKey | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`location` is a file (SQLite) or a SQLAlchemy URL; `key` signs entries and may be None for reading only."""
        url = f"sqlite:///{location}" if isinstance(location, Path) else location
        self._key = key
        self._clock = clock
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise CheckpointError(f"not the address of a database: {_first_line(error)}") from error
        try:
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _make_sqlite_durable)
            self._prepare(location)
            self._last = self._verified_last(location)
        except (sa.exc.SQLAlchemyError, ValueError) as error:
            self.close()
            raise CheckpointError(f"{location}: not a usable state: {_first_line(error)}") from error
        except CheckpointError:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @property
    def last_entry(self) -> Entry | None:
        return self._last

    def append(
        self,
        kind: str,
        body: dict[str, Any],
        *,
        checkpoint: Checkpoint | None = None,
        leaves: tuple[int, Sequence[str]] | None = None,
        released: tuple[int, IntArray] | None = None,
        artifacts: Mapping[str, bytes] | None = None,
    ) -> Entry:
        """Append one signed ledger entry; what is given with it commits with it or not at all.

        `leaves`: of (round id, commitments). `released`: (round id, the noisy sum as integers [d]), to be read by
        `released_grid`. `artifacts`: name → content; the entry names their hashes. Raises CheckpointError.
        """
        if self._key is None:
            raise CheckpointError("this state was opened for reading only")
        arrays = checkpoint.to_bytes() if checkpoint else b""
        digest = hashlib.sha256(arrays).hexdigest()
        if checkpoint:
            body = {**body, "checkpoint_sha256": digest}
        if artifacts:
            hashes = {name: hashlib.sha256(content).hexdigest() for name, content in artifacts.items()}
            body = {**body, "artifacts": hashes}
        entry = next_entry(self._last, self._clock(), kind, body)
        try:
            with self._engine.begin() as connection:
                connection.execute(_ledger.insert().values(position=entry.index, line=sign_entry(entry, self._key)))
                if checkpoint:
                    connection.execute(_checkpoints.insert().values(position=entry.index, arrays=arrays, sha256=digest))
                    kept = sa.select(_checkpoints.c.position).order_by(_checkpoints.c.position.desc())
                    oldest = [row[0] for row in connection.execute(kept)][KEPT_CHECKPOINTS:]
                    connection.execute(_checkpoints.delete().where(_checkpoints.c.position.in_(oldest)))
                if leaves:
                    round_id, commitments = leaves
                    rows = [
                        {"round_id": round_id, "position": position, "commitment": commitment}
                        for position, commitment in enumerate(commitments)
                    ]
                    connection.execute(_leaves.insert(), rows)
                if released:
                    round_id, values = released
                    grid = np.asarray(values).astype("<i8").tobytes()
                    connection.execute(_sums.insert().values(round_id=round_id, grid=grid))
                if artifacts:
                    named = [
                        {"position": entry.index, "name": name, "content": content}
                        for name, content in artifacts.items()
                    ]
                    connection.execute(_artifacts.insert(), named)
        except sa.exc.IntegrityError as error:
            raise CheckpointError("another process has written to this state; run one aggregator per task") from error
        except sa.exc.SQLAlchemyError as error:
            raise CheckpointError(
                f"the state could not be written, nothing was changed: {_first_line(error)}"
            ) from error
        self._last = entry
        return entry

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; None before the first.

        Raises CheckpointError if it is not there or its bytes are not those of the ledger: an older one would use a round
        id twice.
        """
        recorded = [entry for entry in self.entries() if "checkpoint_sha256" in entry.body]
        if not recorded:
            return None
        position, digest = recorded[-1].index, recorded[-1].body["checkpoint_sha256"]
        row = self._read(sa.select(_checkpoints).where(_checkpoints.c.position == position)).first()
        if row is None or hashlib.sha256(row.arrays).hexdigest() != digest:
            raise CheckpointError(
                f"the checkpoint of ledger entry {position} is missing or damaged: its hash is not the one in the ledger; "
                "restore the state from a copy"
            )
        return Checkpoint.from_bytes(row.arrays)

    def released_grid(self, round_id: int) -> IntArray:
        """The noisy sum [d] of a released round that is no step of the model, as the ledger knows it. Raises CheckpointError."""
        entries = self.entries()
        wanted = [entry for entry in entries if entry.kind == "release" and entry.body.get("round_id") == round_id]
        row = self._read(sa.select(_sums.c.grid).where(_sums.c.round_id == round_id)).first()
        if not wanted or row is None or hashlib.sha256(row.grid).hexdigest() != wanted[0].body.get("sum_sha256"):
            raise CheckpointError(f"the sum of round {round_id} is missing or damaged: restore the state from a copy")
        return np.frombuffer(row.grid, "<i8").astype(np.int64)

    def artifact(self, name: str) -> bytes | None:
        """The newest artefact of that name, as the ledger knows it; None if no round made one. Raises CheckpointError."""
        made = [entry for entry in self.entries() if entry.kind == "artifact" and name in entry.body["artifacts"]]
        if not made:
            return None
        position, digest = made[-1].index, made[-1].body["artifacts"][name]
        query = sa.select(_artifacts.c.content).where(_artifacts.c.position == position, _artifacts.c.name == name)
        row = self._read(query).first()
        if row is None or hashlib.sha256(row.content).hexdigest() != digest:
            raise CheckpointError(f"the artefact {name} is missing or damaged: restore the state from a copy")
        return bytes(row.content)

    def artifacts(self) -> dict[str, bytes]:
        """The newest artefact of each name. Raises CheckpointError."""
        made = [entry.body["artifacts"] for entry in self.entries() if entry.kind == "artifact"]
        names = dict.fromkeys(name for named in made for name in named)
        return {name: content for name in names if (content := self.artifact(name)) is not None}

    def lines(self) -> list[bytes]:
        """The ledger as it is exported: one signed envelope a line."""
        return [row.line for row in self._read(sa.select(_ledger).order_by(_ledger.c.position))]

    def entries(self) -> list[Entry]:
        try:
            return [entry for _, entry in read_entries(self.lines())]
        except LedgerError as error:
            raise CheckpointError(f"the ledger is damaged: {error}; restore the state from a copy") from error

    def export_ledger(self, path: Path) -> None:
        path.write_bytes(b"".join(line + b"\n" for line in self.lines()))

    def leaves(self, round_id: int) -> list[str]:
        """Commitments of a released round, in the order of its Merkle tree."""
        query = sa.select(_leaves.c.commitment).where(_leaves.c.round_id == round_id).order_by(_leaves.c.position)
        return [row.commitment for row in self._read(query)]

    def note(self, name: str, value: Any) -> None:
        """Keep a small JSON value for `status`; not part of the ledger."""
        try:
            with self._engine.begin() as connection:
                connection.execute(_notes.delete().where(_notes.c.name == name))
                connection.execute(_notes.insert().values(name=name, value=value))
        except sa.exc.SQLAlchemyError as error:
            raise CheckpointError(f"a note could not be written: {_first_line(error)}") from error

    def notes(self) -> dict[str, Any]:
        return {row.name: row.value for row in self._read(sa.select(_notes))}

    def _read(self, query: Any) -> Any:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).freeze()()
        except (sa.exc.SQLAlchemyError, ValueError) as error:
            raise CheckpointError(f"the state cannot be read: {_first_line(error)}") from error

    def _prepare(self, location: Path | str) -> None:
        """Make the tables of a new state; refuse another application's database and a state of another format."""
        present = set(sa.inspect(self._engine).get_table_names())
        if present and not present <= set(_schema.tables):
            raise CheckpointError(f"{location}: a database of something else; a state needs one of its own")
        _schema.create_all(self._engine)
        found = self.notes().get(_FORMAT_NOTE)
        if found is None and self._read(sa.select(_ledger.c.position).limit(1)).first() is None:
            self.note(_FORMAT_NOTE, FORMAT)
        elif found != FORMAT:
            raise CheckpointError(f"{location}: a state of format {found!r}, this version reads {FORMAT}")

    def _verified_last(self, location: Path | str) -> Entry | None:
        """The last entry, once the whole ledger is known to be linked and, if there is a key, signed with it."""
        try:
            lines = list(read_entries(self.lines()))
            verify_chain([entry for _, entry in lines])
            if self._key is not None:
                verify_signatures(lines, [bytes(self._key.verify_key)] * len(lines))
        except LedgerError as error:
            raise CheckpointError(
                f"{location}: the ledger is damaged: {error}; restore the state from a copy"
            ) from error
        return lines[-1][1] if lines else None


def _make_sqlite_durable(connection: Any, _record: Any) -> None:
    """WAL with a sync at each commit: a commit that returned survives kill -9 and power loss."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
