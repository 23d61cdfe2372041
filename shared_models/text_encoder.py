"""Text in, unit vector out (runtime, on devices and aggregators): tokenizers, onnxruntime and numpy.

Texts are encoded one at a time, also in bulk: the int8 encoder scales its activations per tensor, so a text in a batch would
get a vector that depends on its neighbours (measured on CLINC150: cosine to itself alone 0.991 on average, 0.955 at worst,
for 20% less time). One at a time a text has one vector, wherever and whenever it is encoded.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.errors import ModelDamagedError, ModelMissingError, TextError

DIMENSION = 384
MAX_TOKENS = 64
"""What is beyond is not read."""
MAX_CHARS = 2000
"""A text is cut to this many characters before it is tokenised."""
MAX_INPUT_CHARS = 100_000
"""A longer text is refused."""
MOST_REMEMBERED = 64
"""Vectors that an encoder of one user keeps at hand (100 KB): what was just said is confirmed, corrected or asked again."""

_SPACES = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_UNREADABLE = _SPACES | _SURROGATES


def clean_text(text: object) -> str:
    """The text as it is read: control characters and runs of white space become one space, NFC, at most MAX_CHARS.

    Lone surrogates become U+FFFD. Cleaning twice changes nothing. Raises TextError for anything that is not a string and
    for strings over MAX_INPUT_CHARS.
    """
    if not isinstance(text, str):
        raise TextError(f"expected text, got {type(text).__name__}")
    if len(text) > MAX_INPUT_CHARS:
        raise TextError(f"the text has {len(text)} characters, at most {MAX_INPUT_CHARS} are accepted")
    words = " ".join(text.translate(_UNREADABLE).split())[:MAX_CHARS]
    return unicodedata.normalize("NFC", words)[:MAX_CHARS].rstrip()


class TextEncoder:
    """The pinned sentence encoder. One instance may be used by several threads at once.

    Raises ModelMissingError if a file is not there, ModelDamagedError if the model is not the one whose SHA-256 was
    expected or if a file does not load.
    """

    def __init__(self, model: Path, tokenizer: Path, *, expected_sha256: str | None = None) -> None:
        import tokenizers

        self._guard = threading.Lock()
        self._shared: TextEncoder | None = None
        """The encoder that this one was made from: it is held in memory as long as this one."""
        self._remembered: OrderedDict[str, npt.NDArray[np.float32]] | None = None
        self._most = 0
        vocabulary = _read(tokenizer)
        self._sha256 = _file_sha256(model)
        if expected_sha256 is not None and self._sha256 != expected_sha256:
            raise ModelDamagedError(
                f"the encoder {model.name} has SHA-256 {self._sha256[:16]}…, expected {expected_sha256[:16]}…"
            )
        # By path: given bytes, onnxruntime would keep a second copy of them in memory (28 MB of 142).
        self._session = open_session(model, model.name)
        shape = [(value.name, value.shape[-1]) for value in self._session.get_outputs()]
        names = [value.name for value in self._session.get_inputs()]
        if names != ["input_ids", "attention_mask"] or shape != [("embedding", DIMENSION)]:
            raise ModelDamagedError(f"{model.name} is not a sentence encoder with {DIMENSION} dimensions")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(vocabulary.decode("utf-8"))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(MAX_TOKENS)
        except Exception as error:
            raise ModelDamagedError(f"the tokenizer {tokenizer.name} does not load: {error}") from error

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal: what a head names as the encoder it was made for."""
        return self._sha256

    @property
    def dimension(self) -> int:
        return DIMENSION

    def remembering(self, most: int = MOST_REMEMBERED) -> TextEncoder:
        """The same encoder, one model in memory, that has the vectors of the last `most` texts at hand.

        For one user: what is remembered goes with the object that is returned, and others that encode do not see it.
        """
        twin = copy.copy(self)
        twin._shared, twin._remembered, twin._most = self, OrderedDict(), most
        return twin

    def forget(self) -> None:
        """Let go of the texts that `remembering` has kept; this one goes on remembering."""
        if self._remembered is not None:
            with self._guard:
                self._remembered.clear()

    def encode_one(self, text: str) -> npt.NDArray[np.float32]:
        """Unit vector [384] of one text, also of an empty one; not to be written to. Raises TextError (see clean_text)."""
        clean = clean_text(text)
        if self._remembered is not None:
            with self._guard:
                if (known := self._remembered.get(clean)) is not None:
                    self._remembered.move_to_end(clean)
                    return known
        ids = np.array([self._tokenizer.encode(clean).ids], np.int64)
        row: npt.NDArray[np.float32] = self._session.run(
            ["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        )[0][0]
        row.flags.writeable = False
        if self._remembered is not None:
            with self._guard:
                self._remembered[clean] = row
                while len(self._remembered) > self._most:
                    self._remembered.popitem(last=False)
        return row

    def encode(self, texts: Sequence[str], *, threads: int = 1) -> npt.NDArray[np.float32]:
        """Unit vectors [n, 384]; each row is exactly what `encode_one` gives. `threads` speeds up bulk work."""
        if isinstance(texts, str):
            raise TextError("expected a sequence of texts, got one text; use encode_one")
        if threads > 1 and len(texts) > 1:
            with ThreadPoolExecutor(threads) as pool:
                rows = list(pool.map(self.encode_one, texts))
        else:
            rows = [self.encode_one(text) for text in texts]
        return np.stack(rows) if rows else np.empty((0, DIMENSION), np.float32)


def open_session(source: bytes | Path, name: str) -> Any:
    """An onnxruntime session on one thread that does not spin. Raises ModelDamagedError if `source` is not a usable model."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        model = source if isinstance(source, bytes) else str(source)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelDamagedError(f"the model {name} does not load: {error}") from error


def _file_sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ModelMissingError(
            f"{path.name} is not there; `tacit-fleet build DIR` makes a bundle that has it"
        ) from error
    except OSError as error:
        raise ModelDamagedError(f"{path.name} cannot be read: {error}") from error
