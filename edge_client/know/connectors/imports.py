"""Records from a file of this device: an export of another service, a spreadsheet. CSV, JSON or newline-delimited JSON.

A person stands behind an import and can mend the file: so it is all or nothing. Every row and field that cannot be used is named
in one RowsError; without one, all rows are kept in one transaction. The same file twice keeps nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_client.know.connectors.intake import Intake, Reading, check_name
from edge_client.know.connectors.mapping import FieldMapping, Mapped
from edge_client.know.connectors.reading import read_csv, read_json, read_ndjson, read_text, records_of
from shared_models.errors import CaptureError, ConfigError, ConnectorDataError, RowsError

MAX_FILE_BYTES = 32 * 1024 * 1024
MOST_ROWS_TOLD = 100
"""Rows with errors that are told one by one; the rest is counted."""
FORMATS = ("csv", "json", "ndjson")
ROW = "row"
"""Name under which what is wrong with a row as a whole is told."""

_ENDINGS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson"}


class FileImport:
    """One file as a source."""

    def __init__(
        self,
        name: str,
        source: Path | bytes,
        mapping: FieldMapping,
        *,
        file_format: str | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        records: str = "",
    ) -> None:
        """`file_format` None goes by the ending of the file's name; `encoding` None by the byte order mark, else UTF-8;
        `delimiter` None by the header. `records` is the field of a JSON object with the list. Raises ConfigError.
        """
        if file_format is None and isinstance(source, Path):
            file_format = _ENDINGS.get(source.suffix.lower())
        if file_format not in FORMATS:
            raise ConfigError(f"file_format is {str(file_format)[:40]!r}, expected one of {', '.join(FORMATS)}")
        self.name = check_name(name)
        self._source = source
        self._mapping = mapping
        self._format = file_format
        self._encoding = encoding
        self._delimiter = delimiter
        self._records = records

    def pull(self, intake: Intake) -> Reading:
        """Import all rows, or none.

        Raises ConsentError (then the file was not opened), RowsError, ConnectorDataError (not such a file), StoreWriteError.
        """
        reading = intake.begin(self.name, [self._mapping])
        mapped = self._checked(self._read(), intake, reading)
        reading.pages = 1
        intake.take(self._mapping, mapped, reading)
        intake.finish(reading)
        return reading

    def _read(self) -> list[dict[str, Any]]:
        raw = read_bytes(self._source, MAX_FILE_BYTES)
        if self._format == "csv":
            return read_csv(raw, encoding=self._encoding, delimiter=self._delimiter)
        text = read_text(raw, self._encoding).encode("utf-8", "surrogatepass")
        return read_ndjson(text) if self._format == "ndjson" else records_of(read_json(text), self._records)

    def _checked(self, rows: list[dict[str, Any]], intake: Intake, reading: Reading) -> list[Mapped]:
        mapped: list[Mapped] = []
        wrong: dict[int, dict[str, str]] = {}
        total = 0
        for number, row in enumerate(rows, start=1):
            try:
                if "" in row and self._format == "csv":
                    raise CaptureError({ROW: str(row[""])})
                mapped.append(intake.read(self._mapping, row, reading))
            except CaptureError as error:
                total += 1
                if len(wrong) < MOST_ROWS_TOLD:
                    wrong[number] = error.fields
        if total:
            raise RowsError(wrong, total)
        return mapped


def read_bytes(source: Path | bytes, limit_bytes: int) -> bytes:
    """A file of at most `limit_bytes`. Raises ConnectorDataError if there is none, it is larger, or it cannot be read."""
    if not isinstance(source, Path | bytes):
        raise ConfigError(f"the source is a {type(source).__name__}, expected a Path or bytes")
    if isinstance(source, bytes):
        raw = source
    else:
        try:
            # A pipe or a device would never end.
            if not source.is_file():
                raise ConnectorDataError(f"{source}: no such file")
            with source.open("rb") as file:
                raw = file.read(limit_bytes + 1)
        except OSError as error:
            raise ConnectorDataError(f"{source}: cannot be read: {error.strerror or error}") from error
    if len(raw) > limit_bytes:
        raise ConnectorDataError(f"the file has more than {limit_bytes} bytes; import it in parts")
    return raw
