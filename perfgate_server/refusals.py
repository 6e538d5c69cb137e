"""What gunicorn refuses before the application sees it, answered as the application would."""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
from typing import Any

from gunicorn import util
from gunicorn.http import errors as http
from werkzeug.http import HTTP_STATUS_CODES

from perfgate_server.errors import EXPOSED, FAILED, error_json

logger = logging.getLogger(__name__)

#: The usual cause: curl sends what stands in a query as it is.
_ENCODE = (
    "In a URL, spaces and letters beyond ASCII are percent-encoded, as curl does it with -G"
    " --data-urlencode."
)
#: The usual cause of a bad header: a key comes from a file with the line ends of Windows.
_HEADER = (
    "A header is not well-formed, or contradicts another: is there a carriage return, or the like,"
    " in its value?"
)
#: What gunicorn refuses before the application sees it -> status and reason.
_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    # No client's fault, though gunicorn has these two among what is not well-formed HTTP.
    http.InvalidResponseHeader: (500, FAILED),
    http.InvalidResponseHeaderName: (500, FAILED),
    http.LimitRequestLine: (414, "The request line is too long."),
    http.LimitRequestHeaders: (431, "The headers are too many or too long."),
    http.ExpectationFailed: (417, "The expectation cannot be met."),
    http.UnsupportedTransferCoding: (501, "The transfer coding is not supported."),
    http.ForbiddenProxyRequest: (403, "This proxy is not trusted."),
    http.InvalidRequestMethod: (400, "The method is invalid; they are in capitals, such as GET."),
    http.InvalidHeader: (400, _HEADER),
    http.InvalidHeaderName: (400, "The name of a header is not well-formed."),
    http.ObsoleteFolding: (400, "A header is folded over two lines, which is obsolete in HTTP."),
    http.InvalidHTTPVersion: (400, f"The HTTP version is not supported. {_ENCODE}"),
    # The path does not begin with what SCRIPT_NAME, in gunicorn's environment, says.
    http.ConfigurationProblem: (404, "There is no such route: none is outside of SCRIPT_NAME."),
    http.ParseException: (400, f"The request is not well-formed HTTP. {_ENCODE}"),
    ssl.SSLError: (400, "The connection is no TLS that the server takes."),
}


def answer(exc: Exception, client: socket.socket, addr: Any, *, cors: bool) -> None:
    """Answer a client whose request made gunicorn raise `exc`, and log that, and nothing of what
    was sent: there may be an Authorization header in it."""
    status, message = _refusal(exc)
    request_id = secrets.token_hex(16)
    fields = {"request_id": request_id, "status": status, "client": addr[0] if addr else None}
    if status == 500:
        logger.error("gunicorn failed", exc_info=exc, extra=fields)
    else:
        fields |= {"reason": type(exc).__name__, "error": message}
        logger.info("refused by gunicorn", extra=fields)
    try:
        util.write_nonblock(client, _raw_answer(status, message, request_id, cors))
    except OSError as error:
        logger.debug("the client is gone: %s", error, extra=fields)


def _refusal(exc: Exception) -> tuple[int, str]:
    for kind, refusal in _REFUSALS.items():
        if isinstance(exc, kind):
            return refusal
    return 500, FAILED


def _raw_answer(status: int, message: str, request_id: str, cors: bool) -> bytes:
    details = {400: {"request": message}, 404: {"missing": "route"}}.get(status, {})
    body = error_json(status, message, details, request_id).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTP_STATUS_CODES[status]}",
        f"Date: {util.http_date()}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
    ]
    if cors:
        lines += [
            "Access-Control-Allow-Origin: *",
            f"Access-Control-Expose-Headers: {EXPOSED}",
        ]
    return "\r\n".join([*lines, "", ""]).encode() + body
