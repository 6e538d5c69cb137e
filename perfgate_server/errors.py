"""Which exception of the application is which status, and how an error looks. What gunicorn refuses
before the application sees it is in `refusals`."""

from __future__ import annotations

import logging
import re
from typing import Any

from flask import Flask, Response, g, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.http import HTTP_STATUS_CODES

from perfgate_server import jsonio, keys
from perfgate_server.fields import MAX_PATH, flatten
from perfgate_server.jsonio import MalformedJSON
from perfgate_server.lean import Answer
from perfgate_server.storage import base as storage

logger = logging.getLogger(__name__)

_CODES = {
    400: "VALIDATION_ERROR",
    409: "ALREADY_EXISTS",
    413: "PAYLOAD_TOO_LARGE",
    # werkzeug still has the phrases from before RFC 9110.
    414: "URI_TOO_LONG",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}

#: The headers that a page of another origin may read, of errors too.
EXPOSED = (
    "ETag, Link, Location, Perfgate-Baseline, Perfgate-Missing, Perfgate-Verdict, Retry-After,"
    " X-Request-ID"
)

#: What a client is told of a fault of ours.
FAILED = "Internal error; see this request id in the server's log."

#: The headers of a 503: a client may try again after a second.
RETRY = {"Retry-After": "1"}


class ApiError(Exception):
    """An answer that is an error, whatever raised it."""

    def __init__(
        self,
        status: int,
        message: str,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details or {}
        self.headers = headers or {}


def code_of(status: int) -> str:
    """Return the code of a status: ours, or its standard phrase in capitals."""
    phrase = HTTP_STATUS_CODES.get(status, "Error")
    return _CODES.get(status) or re.sub(r"[^A-Z]+", "_", phrase.upper())


def error_json(status: int, message: str, details: dict[str, Any], request_id: str) -> str:
    """Return the JSON text of an error."""
    error = {
        "code": code_of(status),
        "message": message,
        "details": details,
        "request_id": request_id,
    }
    return keys.redact(jsonio.dumps({"error": error})) + "\n"


def _bad_request(details: dict[str, str]) -> ApiError:
    """Return the 400 for fields that are not valid: dotted path -> one sentence."""
    details = {keys.redact(path, MAX_PATH): rule for path, rule in details.items()}
    path, sentence = next(iter(details.items()))
    more = f" ({len(details) - 1} more in details)" if len(details) > 1 else ""
    return ApiError(400, f"{path}: {sentence}{more}", details)


def init_app(app: Flask) -> None:
    """Make every error of `app` an envelope."""
    app.register_error_handler(ApiError, _answer)
    app.register_error_handler(MalformedJSON, lambda e: _answer(_bad_request({"body": str(e)})))
    app.register_error_handler(
        ValidationError, lambda e: _answer(_bad_request(flatten(e.messages)))
    )
    app.register_error_handler(
        storage.NotFound, lambda e: _answer(ApiError(404, str(e), {"missing": e.missing}))
    )
    app.register_error_handler(storage.Conflict, lambda e: _answer(_conflict(e)))
    app.register_error_handler(storage.PreconditionFailed, lambda e: _answer(_precondition(str(e))))
    app.register_error_handler(storage.Unavailable, _unavailable)
    app.register_error_handler(HTTPException, lambda e: _answer(_http_error(e)))
    app.register_error_handler(Exception, _unexpected)


def _answer(error: ApiError) -> Response:
    g.error = error.message  # for the request's line in the log
    text = error_json(error.status, error.message, error.details, g.request_id)
    return Answer(text, error.status, error.headers, content_type="application/json")


def _conflict(error: storage.Conflict) -> ApiError:
    stored, sent = error.stored, error.sent
    names = ["receipt" if name == "content_hash" else name for name in error.differs]
    return ApiError(
        409,
        f"Version {stored.version!r} of benchmark {stored.benchmark!r} exists, and what was sent"
        f" differs from it in: {', '.join(names)}. A version never changes: take another name.",
        {
            "stored_content_hash": stored.content_hash,
            "sent_content_hash": sent.content_hash,
            "differs": names,
        },
    )


def _precondition(header: str) -> ApiError:
    message = "The record is there already, or has an ETag that If-None-Match names."
    if header == "If-Match":
        message = (
            "The record is missing, or its ETag is not one that If-Match names. Give an ETag with"
            " its double quotes and without W/."
        )
    return ApiError(412, message, {"header": header})


def log_unavailable(error: storage.Unavailable) -> None:
    """Log why the storage is unavailable, which clients are not told."""
    logger.error("storage unavailable: %s", error, extra={"request_id": g.request_id})


def _unavailable(error: storage.Unavailable) -> Response:
    log_unavailable(error)
    # Nobody knows whether anything changed: the answer to a commit may be lost. A retry is safe:
    # an upload or a promotion that was done gets its first answer.
    message = f"The storage is {error.reason.replace('_', '-')}. Try again."
    return _answer(ApiError(503, message, {"reason": error.reason}, RETRY))


def _http_error(error: HTTPException) -> ApiError:
    status = error.code or 500
    message = error.description or HTTP_STATUS_CODES.get(status, "Error")
    details, headers = {}, {}
    if isinstance(error, NotFound):
        message, details = _no_route(), {"missing": "route"}
    elif isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        message = f"{request.method} is not allowed here; allowed: {allowed}."
        headers["Allow"] = allowed
    return ApiError(status, message, details, headers)


def _no_route() -> str:
    if "//" in request.path or (request.path.endswith("/") and request.path != "/"):
        return "There is no such route: the path has an empty segment."
    path = re.sub("^/api/v1", "", request.path)
    if re.fullmatch(r"/projects/[^/]*/baselines/.+", path, re.DOTALL):
        return (
            "There is no such route. Of a benchmark there are …/{benchmark}/latest,"
            " …/{benchmark}/versions, …/{benchmark}/versions/{version}, …/{benchmark}/trend,"
            " …/{benchmark}/promote and …/{benchmark}/compare; a version holds no slash."
        )
    if re.fullmatch(
        r"/projects/[^/]+/(?!verdicts/)[^/]+/(?:.*/)?(?:baselines|verdicts)(?:/.*)?",
        path,
        re.DOTALL,
    ):
        return "There is no such route: a project holds no slash."
    return "There is no such route. All are at the root and, alike, under /api/v1."


def _unexpected(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error, extra={"request_id": g.request_id})
    return _answer(ApiError(500, FAILED))
