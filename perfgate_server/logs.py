"""Logging: one configuration for the application and gunicorn, one line for a request."""

from __future__ import annotations

import functools
import json
import logging
import logging.config
import re
import sys
import time
from typing import Any
from urllib.parse import unquote

from flask import Response, g, request
from gunicorn.glogging import Logger
from pythonjsonlogger.json import JsonFormatter
from werkzeug.datastructures import EnvironHeaders

from perfgate_server.keys import redact
from perfgate_server.terminal import printable

TRACE = 5
_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {level: name for name, level in _LEVELS.items()} | {logging.CRITICAL: "error"}
_COLORS = {"trace": "2", "debug": "2", "info": "32", "warn": "33", "error": "31"}

#: Headers whose values are somebody's secret.
_SECRET = re.compile(
    "auth|cookie|key|token|secret|password|credential|session|jwt|assertion|oidc|csrf|cert",
    re.IGNORECASE,
)

#: Characters of an error's message in a line: it may quote what was sent.
_LONGEST_ERROR = 300

#: Characters of a path in a line: what a proxy puts before it may be as long as all headers.
_LONGEST_PATH = 8192

#: What a line for people shows of a record's own fields.
_SHOWN = ("request_id", "status", "reason", "error", "client", "headers")

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("perfgate_server.access")
trace_logger = logging.getLogger("perfgate_server.trace")

_ENCODE = json.JSONEncoder(default=str).encode


def configure(level: str, style: str) -> None:
    """Send every logger's lines to standard error: from `level` up, as ``json`` or ``pretty``."""
    logging.addLevelName(TRACE, "TRACE")
    # Do not collect what no log line shows: see "Optimization" in Python's Logging HOWTO.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging).update(logAsyncioTasks=False, _srcfile=None)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {"()": JsonLines, "json_serializer": lambda data, **_: _ENCODE(data)},
                "pretty": {"()": PrettyLines},
            },
            "filters": {"no_requests": {"()": NoDevelopmentRequests}},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": style,
                    "stream": "ext://sys.stderr",
                }
            },
            "root": {"level": _LEVELS[level], "handlers": ["stderr"]},
            "loggers": {
                "werkzeug": {"filters": ["no_requests"]},
                # It tells its headers of each request; ours say the same.
                "flask_cors": {"level": "WARNING"},
            },
        }
    )


class JsonLines(JsonFormatter):
    """``{"time": …, "level": …, "logger": …, "message": …}`` and the record's own fields."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["time"] = _time(record)
        log_data["level"] = _NAMES.get(record.levelno, record.levelname.lower())
        log_data["logger"] = record.name
        log_data["message"] = record.message
        super().add_fields(log_data, record, message_dict)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] | None = record.__dict__.get("fields")
        if fields is None:
            return redact(super().format(record))
        # A request's line, which has nothing else to it: in a third of the time.
        head = {
            "time": _time(record),
            "level": _NAMES[record.levelno],
            "logger": record.name,
            "message": record.msg,
        }
        return redact(_ENCODE(head | fields))


class PrettyLines(logging.Formatter):
    """A line for people, coloured on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname.lower())
        tag = f"{level:5}"
        if sys.stderr.isatty():
            tag = f"\033[{_COLORS.get(level, '0')}m{tag}\033[0m"
        message = record.getMessage()
        if record.name == access_logger.name:
            message = self._request(record.__dict__["fields"])
        message += "".join(
            f" {name}={record.__dict__[name]}" for name in _SHOWN if name in record.__dict__
        )
        # Nothing that a client sends may end the line, or move the cursor.
        lines = [f"{_time(record)} {tag} {printable(message)}"]
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            lines += [printable(line) for line in traceback.splitlines()]
        return redact("\n".join(lines))

    @staticmethod
    def _request(fields: dict[str, Any]) -> str:
        key = f"{fields['role'] or 'unknown'}:{fields['key_id']}" if fields["key_id"] else "-"
        more = "".join(f" {fields[name]}" for name in ("verdict", "error") if name in fields)
        return (
            f"{fields['method']} {fields['path']} {fields['status']} {fields['duration_ms']} ms"
            f" {fields['bytes']} B {key} {fields['request_id']}{more}"
        )


def _time(record: logging.LogRecord) -> str:
    seconds, fraction = divmod(record.created, 1)
    return f"{_second(int(seconds))}.{int(fraction * 1e6):06d}Z"


@functools.lru_cache(1)
def _second(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(number))


class _RequestRecord(logging.LogRecord):
    """The record of a request's line. What other records find out about their callers, which no
    line of ours shows, would take longer than the line."""

    _common = vars(logging.LogRecord(access_logger.name, 0, "", 0, "request", None, None))
    _common |= dict.fromkeys(("process", "processName", "thread", "threadName"))

    def __init__(self, level: int, fields: dict[str, Any]) -> None:
        now = time.time()
        vars(self).update(
            self._common,
            levelno=level,
            levelname=logging.getLevelName(level),
            created=now,
            msecs=now % 1 * 1000,
            fields=fields,
        )


class NoDevelopmentRequests(logging.Filter):
    """Drops the request lines of Flask's development server; ours say more."""

    def filter(self, record: logging.LogRecord) -> bool:
        return " - - [" not in record.getMessage()


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's logger without handlers of its own: its lines go where ours go."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        if cfg.errorlog != "-" or cfg.accesslog or cfg.logconfig:
            logger.warning("gunicorn's options for logs are not used: all goes to standard error")

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # What it tells at start and stop, the server says itself, in one line each.
        self.debug(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exc_info()[1], (BlockingIOError, TimeoutError)):
            self.debug("a client stopped in the middle; its connection is closed")
        else:
            super().exception(msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """The application writes the request's line: it knows the route and the key."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # gunicorn's parsing errors quote what was sent, an Authorization header among it.
        # It logs raw paths: unquoted, or `redact` would miss a percent-encoded key.
        plain = [type(arg).__name__ if isinstance(arg, Exception) else arg for arg in args]
        plain = [unquote(arg) if isinstance(arg, str) else arg for arg in plain]
        super().debug(msg, *plain, **kwargs)


@functools.cache
def _route(rule: str) -> str:
    """Return a routing rule as the README has it: ``/projects/{project}/baselines``."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def start(environ: dict[str, Any]) -> None:
    """Note when the current request began; at level trace, log its headers, without secrets."""
    g.started = time.perf_counter()
    if trace_logger.isEnabledFor(TRACE):
        headers = [
            f"{name}: {'…' if _SECRET.search(name) else value}"
            for name, value in EnvironHeaders(environ)
        ]
        trace_logger.log(
            TRACE, "request headers", extra={"request_id": g.request_id, "headers": headers}
        )


def finish(response: Response) -> None:
    """Write the line of the current request, which `response` answers."""
    status = response.status_code
    level = logging.INFO if status < 500 else logging.WARNING
    if access_logger.isEnabledFor(level):
        # Not through Flask's proxies: each look through one costs a microsecond.
        about = request._get_current_object()  # type: ignore[attr-defined]  # the proxy's
        known = vars(g._get_current_object())
        environ, rule, key = about.environ, about.url_rule, known.get("key")
        fields = {
            "request_id": known["request_id"],
            "method": about.method,
            "route": _route(rule.rule) if rule else None,
            "path": redact(environ.get("SCRIPT_NAME", "") + about.path, _LONGEST_PATH),
            "status": status,
            "duration_ms": round((time.perf_counter() - known["started"]) * 1000, 3),
            "bytes": 0 if about.method == "HEAD" else response.content_length or 0,
            "key_id": key.id if key else known.get("unknown_key"),
            "role": key.role.value if key else None,
            "project": (about.view_args or {}).get("project"),
            "client": redact(about.remote_addr or "", _LONGEST_ERROR) or None,
        }
        if "error" in known:
            fields["error"] = redact(known["error"], _LONGEST_ERROR)
        if "verdict" in known:
            fields["verdict"] = known["verdict"]
        access_logger.handle(_RequestRecord(level, fields))
