"""From bytes to records: JSON, newline-delimited JSON and CSV, as they come from servers, exports and spreadsheets.

The bytes may be anybody's: everything is bounded, and what cannot be read is one ConnectorDataError that says where and why,
never half of the records. What the records mean says mapping.py.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Mapping
from typing import Any

from shared_models.canonical import parse_document
from shared_models.errors import ConfigError, ConnectorDataError, WireError

MAX_RECORDS = 20_000
"""Of one answer or file. Keeping so many takes a device some ten seconds, in which the store is held."""
MAX_COLUMNS = 500
MAX_DEPTH = 20
DELIMITERS = (",", ";", "\t", "|")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark in little-endian order is the first half of this one.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_json(raw: bytes) -> Any:
    """A JSON object or list in UTF-8. Raises ConnectorDataError, also for a key twice, NaN and more than MAX_DEPTH levels."""
    try:
        if raw[:64].lstrip()[:1] != b"[":
            return _shallow(parse_document(raw, limit_bytes=len(raw)))
        # The parser of documents takes objects only; whatever stands behind the list's end shows as a second key or an error.
        document = parse_document(b'{"records":%b}' % raw, limit_bytes=len(raw) + 16)
    except WireError as error:
        raise ConnectorDataError(f"not the JSON that was expected: {str(error)[:200]}") from error
    if set(document) != {"records"}:
        raise ConnectorDataError("not the JSON that was expected: something follows the list")
    return _shallow(document["records"])


def records_of(document: Any, at: str) -> list[Any]:
    """The records of a JSON answer: the list itself, the list in field `at` (dots lead inwards), or one object as one record.

    Raises ConnectorDataError.
    """
    here = document
    for part in at.split(".") if at else ():
        if not isinstance(here, Mapping) or part not in here:
            raise ConnectorDataError(f"the answer has no field {at!r} with the records")
        here = here[part]
    records = here if isinstance(here, list) else [here]
    if not all(isinstance(record, dict) for record in records):
        raise ConnectorDataError("a record is not a JSON object")
    return _few(records)


def read_ndjson(raw: bytes) -> list[Any]:
    """One JSON object on each line, in UTF-8; empty lines are passed over. Raises ConnectorDataError that says which line."""
    records = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            try:
                records.append(_shallow(parse_document(line, limit_bytes=len(line))))
            except (WireError, ConnectorDataError) as error:
                raise ConnectorDataError(f"line {number}: {str(error)[:200]}") from error
            if len(records) > MAX_RECORDS:
                break
    return _few(records)


def read_text(raw: bytes, encoding: str | None) -> str:
    """Text in `encoding`; None goes by the byte order mark, else takes UTF-8. Raises ConnectorDataError, ConfigError."""
    name = encoding or next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    unknown = ConfigError(f"there is no encoding of text {str(encoding)[:40]!r}")
    try:
        codecs.lookup(name)
    except (LookupError, TypeError, ValueError):
        raise unknown from None
    try:
        return raw.decode(name).removeprefix("\ufeff")
    except LookupError:
        # A codec that is none of text: zip, base64.
        raise unknown from None
    except ValueError as error:
        where = getattr(error, "start", 0)
        raise ConnectorDataError(
            f"the file is not {name} (at byte {where}); give its encoding, such as cp1252 for older spreadsheets"
        ) from None


def read_csv(raw: bytes, *, encoding: str | None = None, delimiter: str | None = None) -> list[dict[str, Any]]:
    """Records of a CSV file with a header (RFC 4180; quotes doubled): header → text.

    `delimiter` None is the one of DELIMITERS that the header has most of. Rows with a wrong number of cells carry what is wrong
    under the key "" so that the caller can name the row. Raises ConnectorDataError, ConfigError.
    """
    if delimiter is not None and delimiter not in DELIMITERS:
        raise ConfigError(f"the delimiter is {str(delimiter)[:10]!r}, expected one of , ; tab |")
    text = read_text(raw, encoding)
    if "\0" in text:
        raise ConnectorDataError("the file holds NUL characters: it is not CSV, or not in this encoding")
    head = text.lstrip("\r\n")
    rows = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter or _delimiter(head), strict=True)
    records: list[dict[str, Any]] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        if not any(header):
            raise ConnectorDataError("the file is empty: expected a header with the names of the columns")
        if len(header) > MAX_COLUMNS:
            raise ConnectorDataError(f"{len(header)} columns, at most {MAX_COLUMNS} are read")
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise ConnectorDataError(f"the column {twice[0][:60]!r} stands twice in the header")
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            record: dict[str, Any] = {name: cell for name, cell in zip(header, row, strict=False) if name}
            if len(row) != len(header):
                record[""] = f"{len(row)} cells, the header has {len(header)}"
            records.append(record)
            if len(records) > MAX_RECORDS:
                break
    except csv.Error as error:
        raise ConnectorDataError(f"line {rows.line_num}: not CSV: {error}") from error
    return _few(records)


def _delimiter(text: str) -> str:
    """Counted in the header outside quotes."""
    counts = dict.fromkeys(DELIMITERS, 0)
    quoted = False
    for char in text[: 64 * 1024]:
        if char == '"':
            quoted = not quoted
        elif not quoted:
            if char in "\r\n":
                break
            if char in counts:
                counts[char] += 1
    return max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def _few(records: list[Any]) -> list[Any]:
    if len(records) > MAX_RECORDS:
        raise ConnectorDataError(f"more than {MAX_RECORDS} records; read them in parts")
    return records


def _shallow(value: Any) -> Any:
    """`value`, if it is no deeper than MAX_DEPTH."""
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return value
    raise ConnectorDataError(f"more than {MAX_DEPTH} levels deep")
