"""How answers are made: JSON, and the pages of lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from flask import Response

from perfgate_server import jsonio, queries
from perfgate_server.keys import redact
from perfgate_server.lean import Answer
from perfgate_server.storage.base import Listing, Page, Record

#: Said of every answer in so many words: a mimetype is worked on, at each answer.
JSON = "application/json"
#: How many of the members that nobody knows an answer names, and with how many characters: a body
#: may hold megabytes of them.
_MOST_NAMES, _LONGEST_NAME = 256, 200


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer a value as a line of JSON."""
    return Answer(jsonio.dumps(value) + "\n", status, headers, content_type=JSON)


def name_ignored(answer: dict[str, Any], ignored: list[str]) -> None:
    """Add to an answer which members of the body nobody knows, if there are any."""
    if ignored:
        answer["ignored"] = [redact(name, _LONGEST_NAME) for name in ignored[:_MOST_NAMES]]


def entries(members: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return a list's entries as JSON, for `listed`: one call for all takes half the time of one
    for each."""
    return [jsonio.dumps([*members]).encode()]


def listed(
    name: str,
    entries: Iterable[bytes],
    listing: Listing[Record],
    page: Page,
    parameters: list[tuple[str, str]],
) -> Response:
    """Answer a page of a list under `name`: its entries, the parts of a JSON array, and in the
    Link header the way to the next page, with the request's `parameters`."""
    pagination = {
        "total": listing.total,
        "limit": page.limit,
        "offset": None if page.cursor is not None else page.offset,
        "has_more": listing.has_more,
    }
    end = b',"pagination":%b}\n' % jsonio.dumps(pagination).encode()
    # Joined once: a page may hold many megabytes of receipts.
    text = b"".join([b'{"%b":' % name.encode(), *entries, end])
    response = Answer(text, content_type=JSON)
    if listing.has_more and listing.last is not None:
        kept = [pair for pair in parameters if pair[0] not in ("offset", "cursor")]
        cursor = queries.encode_cursor(listing.last)
        others = f"{urlencode(kept, safe='/:')}&" if kept else ""
        response.headers["Link"] = f'<?{others}cursor={cursor}>; rel="next"'
    return response
