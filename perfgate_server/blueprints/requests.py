"""What a view asks for: the request's body, query string and preconditions, and the storage."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from flask import current_app, request
from marshmallow import ValidationError
from werkzeug.wsgi import get_input_stream

from perfgate_server import jsonio, records, schemas
from perfgate_server.auth import check_benchmark, set_deadline
from perfgate_server.errors import ApiError
from perfgate_server.fields import Object, all_valid
from perfgate_server.queries import MAX_PARAMETERS, NO_QUERY, Query
from perfgate_server.storage import Storage
from perfgate_server.storage.base import Baseline, Page, PreconditionFailed

_CHUNK = 2**20
#: The usual cause: the headers end at a line break of the key, and with them the request.
_UNANNOUNCED = (
    "Was not announced: there is neither a Content-Length nor a Transfer-Encoding. Perhaps a"
    " header, such as that of the key, ends with a line break."
)

_receipt_schema = schemas.BareReceiptSchema()


def storage() -> Storage:
    """Return where the application keeps its records."""
    found: Storage = current_app.extensions["perfgate"].storage
    return found


def body() -> bytes:
    """Return the request's body.

    Raises 413 for one over --max-body-size (before it is read, or when a chunked one passes the
    limit), 408 when it does not come in time, 400 when it breaks off, 415 for a compressed one.
    """
    limit = _check_length()
    for header, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        if (request.headers.get(header) or plain).lower() != plain:
            message = f"The body must be sent plain: not with this {header}."
            raise ApiError(415, message, {"header": header})
    chunks, size = [], 0
    try:
        stream = get_input_stream(request.environ)
        while size <= limit:
            chunk = stream.read(min(_CHUNK, limit + 1 - size))
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
    except (TimeoutError, BlockingIOError):
        raise ApiError(408, "The body did not arrive in time.") from None
    except MemoryError:  # which is not the client's fault
        raise
    except Exception:  # each server has its own for a broken body; gunicorn's share no parent
        raise _broken() from None
    if size > limit:
        raise _too_large(limit)
    if size < (request.content_length or 0):
        raise _broken()
    if request.content_length is None and "Transfer-Encoding" not in request.headers:
        raise ValidationError({"body": _UNANNOUNCED})
    # A client that was slow to send has not used up what the storage may take.
    set_deadline()
    return b"".join(chunks)


def json_body() -> Any:
    """Return the parsed body of an envelope; raises 415 for one that is not called JSON."""
    _check_length()
    kind = request.mimetype
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415,
            f"The body must be sent as JSON, not as {kind or 'nothing'}:"
            " -H 'Content-Type: application/json'.",
            {"header": "Content-Type"},
        )
    return jsonio.loads(body())


def benchmark_body() -> Any:
    """Return `json_body` of an envelope that names its benchmark itself; raises 403 for one that
    the key does not reach, before anything else that may be wrong with the envelope."""
    sent = json_body()
    if isinstance(sent, dict) and isinstance(sent.get("benchmark"), str):
        check_benchmark(sent["benchmark"])
    return sent


def receipt(sent: Any) -> Any:
    """Return a parsed receipt once it is checked; raises 400, also for a whole record, as it comes
    back from a `latest`."""
    if isinstance(sent, dict) and sent.get("schema") == schemas.BASELINE_SCHEMA:
        rule = "Must be the receipt itself, as ?receipt=only answers it; this is a whole record."
        raise ValidationError({"receipt": rule})
    return _receipt_schema.load({"receipt": sent})["receipt"]


def _check_length() -> int:
    """Return the limit; raise 413 if the body is announced to be over it."""
    limit: int = current_app.extensions["perfgate"].config.max_body_size
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    return limit


def _too_large(limit: int) -> ApiError:
    message = f"The body is over {limit} bytes, the limit of this server."
    return ApiError(413, message, {"limit": limit})


def _broken() -> ValidationError:
    return ValidationError(
        {"body": "Broke off, came in too many chunks, or is not framed as HTTP asks."}
    )


def pairs() -> list[tuple[str, str]]:
    """Return the query string's parameters in their order; raises 400 for bad UTF-8."""
    if not request.query_string:
        return []
    try:
        found = parse_qsl(
            request.query_string.decode("ascii"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=MAX_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise ValidationError({"query": _NO_UTF8}) from None
    except ValueError:
        raise ValidationError({"query": f"Must be at most {MAX_PARAMETERS} parameters."}) from None
    for name, value in found:
        if not _is_utf8(name + value):
            raise ValidationError({name if _is_utf8(name) else "query": _NO_UTF8})
        if "\0" in name + value:
            raise ValidationError({name: "Must not hold U+0000."})
    return found


_NO_UTF8 = "Must be percent-encoded UTF-8."


def _is_utf8(text: str) -> bool:
    """Tell whether nothing of what was decoded had to be escaped."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def query(schema: Query, parameters: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """Return the query string as `schema` has it; raises 400, also for what it does not know
    and for a repeated parameter."""
    return schema.read(pairs() if parameters is None else parameters)


def without_query(schema: Object, sent: Any) -> dict[str, Any]:
    """Return a parsed body as `schema` has it; raises 400, also for any parameter in the query
    string."""
    loaded: dict[str, Any]
    _, loaded = all_valid(partial(query, NO_QUERY), partial(schema.load, sent))
    return loaded


def page(asked: dict[str, Any], receipts: bool = False) -> Page:
    """Take the page's part out of a loaded query; raises 400 for both offset and cursor."""
    offset, cursor = asked.pop("offset", None), asked.pop("cursor", None)
    if offset is not None and cursor is not None:
        raise ValidationError({"cursor": "Must not be given together with offset."})
    return Page(asked.pop("limit"), offset or 0, cursor, asked.pop("total"), receipts)


def check_preconditions(stored: Baseline | None) -> None:
    """Raise PreconditionFailed, with the header's name, unless the request's If-Match and
    If-None-Match allow to change `stored`."""
    if "If-Match" in request.headers:
        # RFC 9110 wants the strong comparison here: a weak tag matches nothing.
        if stored is None or not request.if_match.contains(records.etag_of(stored)):
            raise PreconditionFailed("If-Match")
    if "If-None-Match" in request.headers and stored is not None:
        if request.if_none_match.contains_weak(records.etag_of(stored)):
            raise PreconditionFailed("If-None-Match")
