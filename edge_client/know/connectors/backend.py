"""An app's own back end (CRM, orders) as a source: this user's records, pulled straight to the device, page by page.

Each page is kept with the place where the next begins, in one transaction: a pull that is killed goes on from there, and reading
a page twice keeps nothing twice. What was read before is not asked for again (`since`, ETag).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from edge_client.know.connectors.channel import Answer, Channel, Token
from edge_client.know.connectors.intake import Intake, Reading, check_name
from edge_client.know.connectors.mapping import FieldMapping, Mapped
from edge_client.know.connectors.reading import read_json, read_ndjson, records_of
from shared_models.canonical import canonical_hash
from shared_models.errors import ConfigError, ConnectorDataError

MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_PAGES = 100
"""Of one resource in one pull; the next pull goes on from there."""
MAX_CURSOR = 2048

_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
_NEXT_LINK = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next"?')
_START_AGAIN = (400, 404, 410)
"""Answers to a cursor that the server does not know any more."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind of record at a back end: where it is and what of it is kept.

    The answer is JSON (a list, an object with the list in `records`, or one object) or newline-delimited JSON. The next page is
    named by a `Link` header (RFC 8288, rel="next"), or by the field `cursor` of a JSON object.
    """

    path: str
    """Below the connector's address: `me/orders`."""
    mapping: FieldMapping
    records: str = ""
    """Field with the list; dots lead inwards."""
    cursor: str = ""
    """Field with the cursor of the next page; missing, null or "" on the last one."""
    cursor_parameter: str = "cursor"
    since_parameter: str = ""
    """Name of the query's parameter for the time of the newest record that is known (ISO 8601, inclusive); "" asks for all."""


class BackendConnector:
    """Pulls the resources of one back end. A second thread with the same connector and store only repeats work."""

    def __init__(
        self,
        name: str,
        base_url: str,
        token: Token,
        resources: Sequence[Resource],
        *,
        timeout_s: float = 20.0,
        max_pages: int = MAX_PAGES,
        ca_file: Path | None = None,
    ) -> None:
        """`timeout_s` bounds each page whole. Raises ConfigError."""
        if not resources or len({resource.path for resource in resources}) != len(resources):
            raise ConfigError(f"connector {name!r}: expected resources, each with a path of its own")
        if isinstance(max_pages, bool) or not isinstance(max_pages, int) or max_pages < 1:
            raise ConfigError(f"max_pages is {max_pages!r}, expected a whole number from 1")
        self.name = check_name(name)
        self._channel = Channel(base_url, token, timeout_s=timeout_s, ca_file=ca_file)
        self._resources = tuple(resources)
        self._max_pages = max_pages

    def pull(self, intake: Intake) -> Reading:
        """Read what is new. What was kept before an error stays, and the next pull goes on from there.

        Raises ConsentError (then nothing was asked for), ConnectorError, StoreWriteError, CaptureBusyError.
        """
        reading = intake.begin(self.name, [resource.mapping for resource in self._resources])
        unchanged = [self._pull_one(resource, intake, reading) for resource in self._resources]
        reading.unchanged = all(unchanged)
        intake.finish(reading)
        return reading

    # -- inside ---------------------------------------------------------------------------------------------------

    def _pull_one(self, resource: Resource, intake: Intake, reading: Reading) -> bool:
        """True if the server said that nothing is new."""
        place = _Place.of(intake.place(self.name), resource)
        first = self._channel.address(resource.path)
        if resource.since_parameter and place.since_s:
            first = _with_query(first, {resource.since_parameter: _iso(place.since_s)})
        address, seen, resumed = place.next or first, set[str](), bool(place.next)
        for page in range(self._max_pages):
            seen.add(address)
            intake.require(resource.mapping)
            headers = {"Accept": f"application/json, {_NDJSON[0]}"}
            if page == 0 and not resumed and place.etag and place.etag_for == first:
                headers["If-None-Match"] = place.etag
            try:
                answer = self._channel.get(address, headers, MAX_PAGE_BYTES)
            except ConnectorDataError as error:
                if not resumed or error.status not in _START_AGAIN:
                    raise
                address, resumed, place.next = first, False, ""
                continue
            if answer.status == 304:
                if "If-None-Match" not in headers:
                    raise ConnectorDataError(f"{resource.path}: the server answered 304, which was not asked for")
                return True
            records, link = self._page(resource, first, answer)
            if link in seen:
                raise ConnectorDataError(f"{resource.path}: the pages lead in a circle")
            mapped = intake.read_usable(resource.mapping, records, reading)
            reading.pages += 1
            reading.more |= link is not None and page + 1 == self._max_pages
            place.advance(mapped, link, first, answer, reading.at_s)
            intake.take(resource.mapping, mapped, reading, place.into(intake.place(self.name), resource))
            if link is None:
                return False
            address, resumed = link, False
        return False

    def _page(self, resource: Resource, first: str, answer: Answer) -> tuple[list[Any], str | None]:
        """The records of one answer, and the address of the next page."""
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        link = _NEXT_LINK.search(answer.headers.get("link", ""))
        following = self._channel.next_address(answer.address, link[1]) if link is not None else None
        if kind in _NDJSON:
            return read_ndjson(answer.body), following
        if kind != "application/json" and not kind.endswith("+json"):
            raise ConnectorDataError(f"{resource.path}: the answer is {kind[:60] or 'of no type'}, expected JSON")
        document = read_json(answer.body)
        if resource.cursor and following is None and isinstance(document, Mapping):
            cursor: Any = document
            for part in resource.cursor.split("."):
                cursor = cursor.get(part) if isinstance(cursor, Mapping) else None
            if cursor is not None and cursor != "":
                if isinstance(cursor, bool) or not isinstance(cursor, str | int) or len(str(cursor)) > MAX_CURSOR:
                    raise ConnectorDataError(f"{resource.path}: the cursor is not a short text or a whole number")
                following = _with_query(first, {resource.cursor_parameter: str(cursor)})
        return records_of(document, resource.records), following


@dataclass
class _Place:
    """Where one resource goes on."""

    mapping: str
    """Hash of what the place was reached with: another mapping begins anew, to read what was dropped before."""
    since_s: float = 0.0
    """Time of the newest record of a pull that came to its end."""
    newest_s: float = 0.0
    """The same of the pull that is under way."""
    next: str = ""
    """Address of the page after the last one that was kept."""
    etag: str = ""
    etag_for: str = ""

    @classmethod
    def of(cls, kept: Mapping[str, Any], resource: Resource) -> _Place:
        fresh = cls(canonical_hash([resource.mapping.document(), resource.records, resource.since_parameter]))
        found = kept.get("resources", {}).get(resource.path)
        return cls(**found) if found is not None and found["mapping"] == fresh.mapping else fresh

    def advance(self, mapped: Sequence[Mapped], link: str | None, first: str, answer: Answer, now_s: float) -> None:
        # A time ahead of the clock must not make the next pull pass over everything until then.
        times = [record.at_s for record in mapped if record.at_s is not None and record.at_s <= now_s]
        self.newest_s = max([self.newest_s, *times])
        whole = link is None and not self.next
        self.next = link or ""
        tag = answer.headers.get("etag", "")
        # The tag of one page of several says nothing about the others.
        fit = whole and len(tag) <= 256 and tag.isascii() and tag.isprintable()
        self.etag, self.etag_for = (tag, first) if fit else ("", "")
        if link is None:
            self.since_s, self.newest_s = max(self.since_s, self.newest_s), 0.0

    def into(self, kept: Mapping[str, Any], resource: Resource) -> dict[str, Any]:
        return {"resources": {**kept.get("resources", {}), resource.path: asdict(self)}}


def _with_query(address: str, parameters: Mapping[str, str]) -> str:
    joined = "&" if urlsplit(address).query else "?"
    return f"{address}{joined}{urlencode(parameters, quote_via=quote)}"


def _iso(at_s: float) -> str:
    """Whole seconds, rounded down: what is asked for twice is kept once, what is not asked for is lost."""
    return datetime.fromtimestamp(math.floor(at_s), UTC).isoformat().replace("+00:00", "Z")
