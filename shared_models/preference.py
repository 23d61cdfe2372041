"""The preference model: what a population's tastes say about an item, given what one user has done. Published, run on devices.

Here: the item space as a value, its int8 ONNX file, and running that file. Not here: where the numbers come from
(aggregator.releases.item_space), how a user's signals become a taste (edge_client.decide.preference), anything of one user.

A score is the sum of two parts over the items that the user has not had:
    share      max(0, linear · history), normalised: a linear item-item model (EASE, Steck 2019)
    softmax    of prior + odds · history / overlap + factors · user: pairwise log-odds and a tilt by the user's vector
Each alone ranks worse than both (docs/preference.md). With no head (`head == 0`) there is the tilt alone: prior + factors · user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import ConfigError, InputError, ModelDamagedError, WireError
from shared_models.sensitive import check_features
from shared_models.text_encoder import open_session

SPACE_FORMAT = 1
MAX_ITEMS = 50_000
MAX_HEAD = 512
"""Items of which pairs are counted: the contribution has head · (head + 1) / 2 numbers."""
MAX_RANK = 256
MAX_SPACE_BYTES = 128 * 1024 * 1024
ODDS_OVERLAP = 0.3
"""Log-odds of several items are added and divided by 1 + this · (amount − 1): much of what they say is the same."""

GRAM_DIAGONAL = 0.3
"""Weight of an item beside that of a pair in the contribution `item_gram`: devices and aggregator must agree on it."""

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemSpace:
    """An item space with everything that a device needs to use it. Arrays are float32; n items, of which `head` come first."""

    items: tuple[str, ...]
    prior: Array
    """[n]: log of each item's share of all interactions."""
    linear: Array
    """[n, head]: weight of a head item in the history for each item."""
    odds: Array
    """[n, head]: log of (chance of the item given the head item / chance of the item)."""
    factors: Array
    """[n, rank]: item vectors; a user's vector has the same rank and the prior N(0, 1) in each direction."""
    transfer: Array
    """[n − head, head], 0…1: an item outside the head stands in a history as this mixture of head items."""
    odds_weight: float = 1.0
    """Of the second part of a score."""
    version: int = 0

    def __post_init__(self) -> None:
        n, head = len(self.items), self.linear.shape[-1] if self.linear.ndim == 2 else -1
        if not 1 <= n <= MAX_ITEMS or len(set(self.items)) != n or not all(_is_item(item) for item in self.items):
            raise ConfigError(f"an item space has 1 to {MAX_ITEMS} items with different, short names; got {n}")
        check_features(self.items, where="items", error=ConfigError)
        if not 0 <= head <= min(n, MAX_HEAD):
            raise ConfigError(f"an item space has a head of at most {min(n, MAX_HEAD)} items")
        rank = self.factors.shape[-1] if self.factors.ndim == 2 else -1
        if not 0 <= rank <= MAX_RANK or rank + head == 0:
            raise ConfigError(f"item vectors have at most {MAX_RANK} dimensions, and 1 at least where there is no head")
        shapes = {
            "prior": (n,),
            "linear": (n, head),
            "odds": (n, head),
            "factors": (n, rank),
            "transfer": (n - head, head),
        }
        for name, shape in shapes.items():
            values = np.ascontiguousarray(getattr(self, name), np.float32)
            if values.shape != shape or not np.isfinite(values).all():
                raise ConfigError(f"{name}: shape {values.shape}, expected finite numbers of shape {shape}")
            object.__setattr__(self, name, values)
        if self.transfer.size and not (self.transfer.min() >= 0.0 and self.transfer.max() <= 1.0):
            raise ConfigError("transfer: expected numbers from 0 to 1")
        if not 0.0 <= self.odds_weight <= 100.0:
            raise ConfigError(f"odds_weight is {self.odds_weight}, expected a number from 0 to 100")

    @property
    def head(self) -> int:
        return int(self.linear.shape[1])

    @property
    def rank(self) -> int:
        return int(self.factors.shape[1])

    def scores(self, histories: Array, users: Array | None = None) -> npt.NDArray[np.float64]:
        """Scores [m, n] of histories [m, head] (0…1) and users [m, rank], in float: what the int8 file computes, for reference.

        Items of the head that stand in a history get −1: they are not to be suggested again.
        """
        had = np.zeros((len(histories), len(self.items)), bool)
        had[:, : self.head] = histories > 0
        amount = histories.sum(axis=1, keepdims=True, dtype=np.float64)
        logits = self.prior + (histories @ self.odds.T) / (1.0 + ODDS_OVERLAP * np.maximum(amount - 1.0, 0.0))
        if users is not None:
            logits = logits + users @ self.factors.T
        if not self.head:
            return np.asarray(logits, np.float64)
        logits = np.where(had, -np.inf, logits)
        top = logits.max(axis=1, keepdims=True)
        soft = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
        soft /= np.maximum(soft.sum(axis=1, keepdims=True), 1e-30)
        linear = np.where(had, 0.0, np.maximum(histories @ self.linear.T, 0.0))
        share = linear / np.maximum(linear.sum(axis=1, keepdims=True), 1e-9) * np.minimum(amount, 1.0)
        out: npt.NDArray[np.float64] = np.where(had, -1.0, share + self.odds_weight * soft)
        return out


def gram_dimension(items: int) -> int:
    """Length of the upper triangle of a Gram matrix over `items` items: items · (items + 1) / 2."""
    return items * (items + 1) // 2


def quantise(columns: Array) -> tuple[npt.NDArray[np.uint8], Array]:
    """[depth, n] → levels uint8 around 128, and a scale for each column [n]: value ≈ (level − 128) · scale."""
    largest = np.abs(columns).max(axis=0, initial=0.0)
    scale = (np.maximum(largest, np.float32(1e-12)) / np.float32(127)).astype(np.float32)
    return np.clip(np.rint(columns / scale) + 128, 1, 255).astype(np.uint8), scale


def to_onnx(space: ItemSpace) -> bytes:
    """The item space as an ONNX file (build side), int8 with one scale per item; the same space gives the same bytes.

    With a head: `history` [1, head], `tilt` [1, head + rank] (history / overlap, then the user's vector), `keep` [1, n] (0 for
    what must not come back), `confidence` [1], `k` [1] → `scores`, `rows`. Without: `tilt` and `k` alone. `ids` [m] → `vectors`
    [m, rank] and `ids_tail` [m] → `mixtures` [m, head] read the arrays that a device folds with.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    n, head, rank = len(space.items), space.head, space.rank
    node = helper.make_node
    levels, scale = quantise(np.concatenate([space.odds, space.factors], axis=1).T)
    constants: dict[str, npt.NDArray[Any]] = {
        "odds_levels": levels,
        "odds_scale": scale,
        "zeros": np.full(n, 128, np.uint8),
        "prior": space.prior,
        "middle": np.array(128.0, np.float32),
        "folded": np.ascontiguousarray(levels[head:]),
    }
    tilted = ["tilt", "odds_levels", "odds_scale", "zeros", "prior"]
    nodes = [
        node("DynamicQuantizeMatMul", tilted, ["logits"], domain="com.microsoft"),
        node("Gather", ["folded", "ids"], ["picked"], axis=1),
        node("Cast", ["picked"], ["picked_float"], to=TensorProto.FLOAT),
        node("Sub", ["picked_float", "middle"], ["picked_signed"]),
        node("Gather", ["odds_scale", "ids"], ["picked_scale"], axis=0),
        node("Mul", ["picked_signed", "picked_scale"], ["columns"]),
        node("Transpose", ["columns"], ["vectors"], perm=[1, 0]),
    ]
    floats, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = [("tilt", floats, [1, head + rank]), ("k", whole, [1]), ("ids", whole, ["m"])]
    outputs = [("scores", floats, [1, "top"]), ("rows", whole, [1, "top"]), ("vectors", floats, ["m", rank])]
    final = "logits"
    if head:
        linear_levels, linear_scale = quantise(space.linear.T)
        mixtures = np.rint(space.transfer * 255).astype(np.uint8) if n > head else np.zeros((1, head), np.uint8)
        constants |= {
            "linear_levels": linear_levels,
            "linear_scale": linear_scale,
            "odds_weight": np.array(space.odds_weight, np.float32),
            "one": np.array(1.0, np.float32),
            "far": np.array(1e9, np.float32),
            "tiny": np.array(1e-9, np.float32),
            "axis": np.array([1], np.int64),
            "mixture_levels": mixtures,
            "mixture_scale": np.array(1.0 / 255.0, np.float32),
        }
        product = ["history", "linear_levels", "linear_scale", "zeros"]
        nodes += [
            node("DynamicQuantizeMatMul", product, ["line"], domain="com.microsoft"),
            node("Relu", ["line"], ["positive"]),
            node("Mul", ["positive", "keep"], ["kept"]),
            node("ReduceSum", ["kept", "axis"], ["mass"], keepdims=1),
            node("Max", ["mass", "tiny"], ["divisor"]),
            node("Div", ["kept", "divisor"], ["share"]),
            node("Mul", ["share", "confidence"], ["trusted"]),
            node("Sub", ["keep", "one"], ["out"]),
            node("Mul", ["out", "far"], ["barred"]),
            node("Add", ["logits", "barred"], ["open"]),
            node("Softmax", ["open"], ["chance"], axis=1),
            node("Mul", ["chance", "odds_weight"], ["weighted"]),
            node("Add", ["trusted", "weighted"], ["total"]),
            node("Mul", ["total", "keep"], ["kept_total"]),
            node("Add", ["kept_total", "out"], ["score"]),
            node("Gather", ["mixture_levels", "ids_tail"], ["mixed"], axis=0),
            node("Cast", ["mixed"], ["mixed_float"], to=TensorProto.FLOAT),
            node("Mul", ["mixed_float", "mixture_scale"], ["mixtures"]),
        ]
        inputs += [("history", floats, [1, head]), ("keep", floats, [1, n]), ("confidence", floats, [1])]
        inputs += [("ids_tail", whole, ["t"])]
        outputs += [("mixtures", floats, ["t", head])]
        final = "score"
    nodes.append(node("TopK", [final, "k"], ["scores", "rows"], axis=1))
    graph = helper.make_graph(
        nodes,
        "item_space",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, producer_name="tacit", opset_imports=opsets, ir_version=9)
    metadata = {
        "format": SPACE_FORMAT,
        "items": list(space.items),
        "head": head,
        "rank": rank,
        "version": space.version,
    }
    helper.set_model_props(model, {"tacit.items": canonical_bytes(metadata).decode()})
    raw: bytes = model.SerializeToString(deterministic=True)
    checker.check_model(raw)
    return raw


class ItemSpaceSession:
    """A published item space, ready to run. Raises ModelDamagedError if the bytes are not what was expected or make no sense."""

    def __init__(self, raw: bytes, *, expected_sha256: str | None = None) -> None:
        if not isinstance(raw, bytes) or len(raw) > MAX_SPACE_BYTES:
            raise ModelDamagedError(f"an item space is at most {MAX_SPACE_BYTES} bytes")
        self.sha256 = hashlib.sha256(raw).hexdigest()
        if expected_sha256 is not None and self.sha256 != expected_sha256:
            raise ModelDamagedError(f"the item space has SHA-256 {self.sha256[:16]}…, expected {expected_sha256[:16]}…")
        self._session = open_session(raw, "item space")
        metadata = _read_metadata(self._session.get_modelmeta().custom_metadata_map.get("tacit.items", ""))
        self.items: tuple[str, ...] = tuple(metadata["items"])
        check_features(self.items, where="items", error=ModelDamagedError)
        self.row: dict[str, int] = {item: number for number, item in enumerate(self.items)}
        self.head: int = metadata["head"]
        self.rank: int = metadata["rank"]
        self.version: int = metadata["version"]
        self._no_rows = np.zeros(0, np.int64)
        self._only = only_what_is_asked()
        self._probe()

    def vectors(self, rows: Rows) -> Array:
        """Item vectors [m, rank] of rows [m]."""
        out: Array = self._run(["vectors"], ids=self._checked(rows, 0, len(self.items)))[0]
        return out

    def mixtures(self, rows: Rows) -> Array:
        """What items [m] stand for in a history: [m, head], a 1 for an item of the head."""
        chosen = self._checked(rows, 0, len(self.items))
        out = np.zeros((len(chosen), self.head), np.float32)
        inside = chosen < self.head
        out[inside, chosen[inside]] = 1.0
        if self.head and not inside.all():
            out[~inside] = self._run(["mixtures"], ids_tail=chosen[~inside] - self.head)[0]
        return out

    def top(self, history: Array, user: Array, k: int, excluded: Sequence[int] | Rows = ()) -> tuple[Array, Rows]:
        """The best `k` items that are not excluded: scores and rows, best first; fewer if there are no more.

        `history` [head] holds 0…1, `user` is [rank], `excluded` rows. Raises InputError.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_ITEMS:
            raise InputError(f"k is {str(k)[:40]!r}, expected a whole number from 1 to {MAX_ITEMS}")
        history = _vector("history", history, self.head)
        if self.head and not (history.min() >= 0.0 and history.max() <= 1.0):
            raise InputError("history: expected numbers from 0 to 1")
        user = _vector("user", user, self.rank)
        barred = self._checked(excluded, 0, len(self.items)) if len(excluded) else self._no_rows
        if not self.head:
            wanted = min(k + len(barred), len(self.items))
            scores, rows = self._run(["scores", "rows"], tilt=user[None], k=np.array([wanted]))
            if not len(barred):
                return scores[0], rows[0]
            allowed = ~np.isin(rows[0], barred)
            return scores[0][allowed][:k], rows[0][allowed][:k]
        amount = np.float32(history.sum())
        overlap = np.float32(1.0 + ODDS_OVERLAP * max(float(amount) - 1.0, 0.0))
        tilt = np.concatenate([history / overlap, user])[None]
        keep = np.ones((1, len(self.items)), np.float32)
        keep[0, barred] = 0.0
        scores, rows = self._run(
            ["scores", "rows"],
            tilt=tilt,
            k=np.array([min(k, len(self.items) - len(set(barred.tolist())))]),
            history=history[None],
            keep=keep,
            confidence=np.minimum(amount, np.float32(1.0)).reshape(1),
        )
        return scores[0], rows[0]

    def _run(self, outputs: list[str], **given: npt.NDArray[Any]) -> Any:
        return self._session.run(outputs, {**self._rest, **given}, self._only)

    def _checked(self, rows: Sequence[int] | Rows, least: int, beyond: int) -> Rows:
        chosen = np.asarray(rows)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or ((chosen < least) | (chosen >= beyond)).any():
            raise InputError(f"rows of items are whole numbers from {least} to {beyond - 1}")
        return chosen.astype(np.int64)

    def _probe(self) -> None:
        """Run everything once: a file with other shapes, or numbers that are not finite, is found here and not in a chat."""
        n, head, rank = len(self.items), self.head, self.rank
        self._rest: dict[str, npt.NDArray[Any]] = {
            "tilt": np.zeros((1, head + rank), np.float32),
            "k": np.array([1], np.int64),
            "ids": self._no_rows,
        }
        if head:
            self._rest |= {
                "history": np.zeros((1, head), np.float32),
                "keep": np.ones((1, n), np.float32),
                "confidence": np.zeros(1, np.float32),
                "ids_tail": self._no_rows,
            }
        names = sorted(value.name for value in self._session.get_inputs())
        if names != sorted(self._rest):
            raise ModelDamagedError(f"the item space takes {names}, expected {sorted(self._rest)}")
        every = np.arange(n)
        try:
            probe = self._rest | {"tilt": np.ones((1, head + rank), np.float32), "k": np.array([n], np.int64)}
            if head:
                probe |= {"history": np.ones((1, head), np.float32), "confidence": np.ones(1, np.float32)}
            scores, rows = self._session.run(["scores", "rows"], probe)
            vectors, mixtures = self.vectors(every), self.mixtures(every)
        except Exception as error:
            raise ModelDamagedError(f"the item space does not run: {str(error)[:300]}") from error
        if scores.shape != (1, n) or vectors.shape != (n, rank) or mixtures.shape != (n, head):
            raise ModelDamagedError("the item space gives arrays of other shapes than its metadata says")
        if not np.array_equal(np.sort(rows[0]), every):
            raise ModelDamagedError("the item space ranks rows that are not its items")
        if not (np.isfinite(scores).all() and np.isfinite(vectors).all() and np.isfinite(mixtures).all()):
            raise ModelDamagedError("the item space holds numbers that are not finite")


def only_what_is_asked() -> Any:
    """onnxruntime's options for running no more of a graph than the outputs that are asked for."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


def _vector(name: str, values: Array, size: int) -> Array:
    vector = np.asarray(values)
    if vector.shape != (size,) or vector.dtype.kind not in "fiub" or not np.isfinite(vector).all():
        raise InputError(f"{name}: expected finite numbers of shape ({size},)")
    return vector.astype(np.float32, copy=False)


def _is_item(item: Any) -> bool:
    return isinstance(item, str) and 0 < len(item) <= 100


def _read_metadata(text: str) -> Mapping[str, Any]:
    try:
        found = parse_document(text.encode(), limit_bytes=MAX_ITEMS * 110)
    except WireError as error:
        raise ModelDamagedError(f"this is not a published item space: {error}") from error
    names: Sequence[Any] = found["items"] if isinstance(found.get("items"), list) else []
    head, rank = found.get("head"), found.get("rank")
    checks = {
        "format": found.get("format") == SPACE_FORMAT,
        "items": 1 <= len(names) <= MAX_ITEMS
        and all(_is_item(name) for name in names)
        and len(set(names)) == len(names),
        "head": _is_count(head, min(MAX_HEAD, len(names))),
        "rank": _is_count(rank, MAX_RANK) and (head or 0) + (rank or 0) > 0,
        "version": _is_count(found.get("version"), 1 << 50),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise ModelDamagedError(f"the item space's metadata field {wrong[0]!r} is {str(found.get(wrong[0]))[:80]!r}")
    return found


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
