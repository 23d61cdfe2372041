"""The encoder: the same vectors as the torch model, the same bytes each time, whole in the cache, unmoved by odd text."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_models import encoder as encoder_module
from shared_models.encoder import EncoderFiles, build_encoder, build_model, recipe_hash, source_folder
from shared_models.errors import ModelDamagedError, ModelMissingError, TextError
from shared_models.text_encoder import MAX_CHARS, MAX_INPUT_CHARS, TextEncoder, clean_text

ROOT = Path(__file__).parents[2]
# If this changes while RECIPE does not, heads out there no longer fit the encoders that are built here.
BUILT_SHA256 = "e9c9a85be3302372b1af0f10a1fc63cf8f5fc8f24ef7139bf6689d4d5e8e96b0"
TEXTS = [
    "Book a flight to Lisbon",
    "what's the weather like over there next week?",
    "my suitcase never showed up and I am furious!!",
    "hi",
    "Could you tell me whether a traveller with a Chilean passport needs a visa for a stopover of nine hours in Istanbul",
    "¿Dónde está la estación?",
    "zug nach münchen",
]


@pytest.fixture(scope="module")
def torch_vectors() -> np.ndarray:
    """What the packaged model gives in torch: token states, masked mean, unit length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source_folder(), local_files_only=True)
    model = AutoModel.from_pretrained(source_folder(), local_files_only=True).eval()
    rows = []
    with torch.inference_mode():
        for text in TEXTS:
            batch = tokenizer(text, return_tensors="pt")
            states = model(**batch).last_hidden_state
            rows.append(torch.nn.functional.normalize(states.mean(dim=1), dim=-1)[0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def float_encoder(tmp_path_factory: pytest.TempPathFactory, encoder_files: EncoderFiles) -> TextEncoder:
    path = tmp_path_factory.mktemp("float") / "encoder.onnx"
    path.write_bytes(build_model(encoder_module._read_source()[1], quantized=False))
    return TextEncoder(path, encoder_files.tokenizer)


def test_without_quantisation_the_vectors_are_those_of_torch(
    float_encoder: TextEncoder, torch_vectors: np.ndarray
) -> None:
    assert np.abs(float_encoder.encode(TEXTS) - torch_vectors).max() < 1e-5


def test_quantised_vectors_stay_close_to_torch(text_encoder: TextEncoder, torch_vectors: np.ndarray) -> None:
    cosines = (text_encoder.encode(TEXTS) * torch_vectors).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.995


def test_padding_changes_no_vector(float_encoder: TextEncoder) -> None:
    ids = float_encoder._tokenizer.encode(TEXTS[0]).ids
    padded = np.array([ids + [0] * 9], np.int64)
    mask = np.array([[1] * len(ids) + [0] * 9], np.int64)
    (vectors,) = float_encoder._session.run(["embedding"], {"input_ids": padded, "attention_mask": mask})
    assert np.abs(vectors[0] - float_encoder.encode_one(TEXTS[0])).max() < 1e-6


def test_every_build_gives_the_same_bytes(encoder_files: EncoderFiles, tmp_path: Path) -> None:
    again = build_encoder(tmp_path)
    assert again.model.read_bytes() == encoder_files.model.read_bytes()
    assert again.model_sha256 == encoder_files.model_sha256 == BUILT_SHA256
    assert again.model.stat().st_size < 24_000_000


def test_a_build_reports_progress_and_a_whole_cache_is_used_again(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    first = build_encoder(tmp_path, lambda stage, done: seen.append((stage, done)))
    fractions = [done for _, done in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    written = first.model.stat().st_mtime_ns
    assert build_encoder(tmp_path) == first
    assert first.model.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "hashes.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "emptied", "gone"])
def test_a_damaged_cache_is_built_anew(encoder_files: EncoderFiles, tmp_path: Path, name: str, harm: str) -> None:
    folder = tmp_path / recipe_hash()
    shutil.copytree(encoder_files.model.parent, folder)
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).unlink()
    if harm != "gone":
        (folder / name).write_bytes({"flipped": raw, "cut": raw[: len(raw) // 2], "emptied": b""}[harm])
    mended = build_encoder(tmp_path)
    assert mended.model_sha256 == BUILT_SHA256
    assert mended.model.read_bytes() == encoder_files.model.read_bytes()
    assert mended.tokenizer.read_bytes() == encoder_files.tokenizer.read_bytes()


def test_two_processes_building_at_once_both_get_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from shared_models.encoder import build_encoder;"
        "print(build_encoder(pathlib.Path(sys.argv[1])).model_sha256)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [BUILT_SHA256] * 2


def test_a_build_is_quiet_and_needs_neither_network_nor_torch(tmp_path: Path) -> None:
    code = """
import pathlib, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"network: {event} {arguments}")
sys.addaudithook(watch)
from shared_models.encoder import build_encoder
build_encoder(pathlib.Path(sys.argv[1]))
heavy = {"torch", "transformers", "sentence_transformers", "onnxscript"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(source_folder() / name, copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"\xff")
    monkeypatch.setattr(encoder_module, "source_folder", lambda: copy)
    with pytest.raises(ModelDamagedError, match=r"model\.safetensors .* has SHA-256"):
        build_encoder(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.onnx"))


def test_missing_weights_name_the_extra_that_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModelMissingError, match=r"tacit\[publish\]"):
        build_encoder(tmp_path)


# -- at run time -------------------------------------------------------------------------------------------------------


def test_a_text_has_one_vector_alone_in_bulk_and_from_threads(text_encoder: TextEncoder) -> None:
    alone = np.stack([text_encoder.encode_one(text) for text in TEXTS])
    assert np.array_equal(text_encoder.encode(TEXTS), alone)
    assert np.array_equal(text_encoder.encode(TEXTS[::-1], threads=3), alone[::-1])
    with ThreadPoolExecutor(4) as pool:
        for vector, expected in zip(pool.map(text_encoder.encode_one, TEXTS * 5), list(alone) * 5, strict=True):
            assert np.array_equal(vector, expected)


def test_no_texts_give_no_rows(text_encoder: TextEncoder) -> None:
    assert text_encoder.encode([]).shape == (0, text_encoder.dimension)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "\x00\x01\x02\xff",
        "😀👩‍👩‍👧‍👦🏳️‍🌈",
        "أريد حجز رحلة",
        "\u202eright to left\u202c",
        "\ud800 half a pair \udfff",
        "a\u0301" * 3000,
        "x" * MAX_INPUT_CHARS,
        "ﷺ" * 5000,
        bytes(range(256)).decode("latin-1") * 300,
    ],
)
def test_odd_text_gets_a_unit_vector(text_encoder: TextEncoder, text: str) -> None:
    vector = text_encoder.encode_one(text)
    assert vector.shape == (384,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_string_can_be_encoded_and_cleaning_twice_changes_nothing(text_encoder: TextEncoder, text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert clean == clean.strip()
    clean.encode("utf-8")
    assert np.array_equal(text_encoder.encode_one(text), text_encoder.encode_one(clean))


def test_long_text_is_cut_and_longer_text_is_refused() -> None:
    assert len(clean_text("word " * 20_000)) == MAX_CHARS - 1
    with pytest.raises(TextError, match="1048576 characters, at most 100000"):
        clean_text("x" * (1 << 20))


@pytest.mark.parametrize("text", [None, b"bytes", 7, ["a list"]])
def test_what_is_not_text_is_refused(text_encoder: TextEncoder, text: object) -> None:
    with pytest.raises(TextError, match="expected text"):
        text_encoder.encode_one(text)  # type: ignore[arg-type]


def test_one_string_is_not_taken_for_a_list_of_letters(text_encoder: TextEncoder) -> None:
    with pytest.raises(TextError, match="encode_one"):
        text_encoder.encode("hello")


def test_canonically_equal_texts_have_one_vector(text_encoder: TextEncoder) -> None:
    assert np.array_equal(text_encoder.encode_one("café  au\tlait"), text_encoder.encode_one("cafe\u0301 au lait "))


def test_a_missing_model_names_the_command_that_makes_one(encoder_files: EncoderFiles, tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="tacit-fleet build"):
        TextEncoder(tmp_path / "none.onnx", encoder_files.tokenizer)
    with pytest.raises(ModelMissingError, match="tacit-fleet build"):
        TextEncoder(encoder_files.model, tmp_path / "none.json")
    with pytest.raises(ModelDamagedError, match="cannot be read"):
        TextEncoder(tmp_path, encoder_files.tokenizer)


def test_a_damaged_model_is_refused(encoder_files: EncoderFiles, tmp_path: Path) -> None:
    raw = encoder_files.model.read_bytes()
    changed = tmp_path / "encoder.onnx"
    changed.write_bytes(raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:])
    with pytest.raises(ModelDamagedError, match="expected e9c9a85b"):
        TextEncoder(changed, encoder_files.tokenizer, expected_sha256=encoder_files.model_sha256)
    for junk in (b"", b"not a model", raw[: len(raw) // 3]):
        changed.write_bytes(junk)
        with pytest.raises(ModelDamagedError):
            TextEncoder(changed, encoder_files.tokenizer)


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "Magic"}}'])
def test_a_damaged_tokenizer_is_refused(encoder_files: EncoderFiles, tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(junk)
    with pytest.raises(ModelDamagedError, match=r"tokenizer\.json does not load"):
        TextEncoder(encoder_files.model, path)
