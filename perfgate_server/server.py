"""gunicorn: its settings, and embedded for `run_server`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from collections import Counter
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from perfgate_server.app import announce_key, configure_logs, create_app
from perfgate_server.arbiter import Arbiter, before_fork, clear_slot
from perfgate_server.config import ConfigError, ServerConfig, address
from perfgate_server.worker import Worker

logger = logging.getLogger(__name__)

#: The signals that gunicorn handles.
_SIGNALS = [*Arbiter.SIGNALS, signal.SIGCHLD]


def gunicorn_settings(config: ServerConfig) -> dict[str, Any]:
    """Return gunicorn's settings, for `run_server` and for gunicorn.conf.py. Raises ConfigError if
    there is no folder for the workers' heartbeats."""
    return {
        "worker_class": "perfgate_server.worker.Worker",
        "logger_class": "perfgate_server.logs.GunicornLogger",
        "proc_name": "perfgate-server",
        # Set always: gunicorn's own default is taken from WEB_CONCURRENCY.
        "workers": config.effective_workers,
        "threads": config.threads,
        # The application is made once, before the workers: what is wrong shows before anything
        # listens, and a worker that is started later can neither create nor migrate a database.
        "preload_app": True,
        # Longer than nginx keeps its idle connections (60 s), so that nginx closes them first.
        "keepalive": 75,
        # Heartbeats come from the worker's loop, not from its requests: without one for so long,
        # later than any request could be answered, all of it is stuck, and it is killed.
        "timeout": int(config.timeout) + 30,
        "graceful_timeout": int(config.timeout) + 5,
        "worker_tmp_dir": _heartbeats(),
        "pre_fork": before_fork,
        "child_exit": clear_slot,
        "worker_exit": _close_storage,
        "control_socket_disable": True,
        # The longest that gunicorn takes: names and metadata in a query string need room.
        "limit_request_line": 8190,
        # X-Forwarded-* is the application's to believe (--trusted-proxies), SCRIPT_NAME and
        # PATH_INFO as headers nobody's. Over a unix socket gunicorn trusts whoever it is.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
    }


def _heartbeats() -> str:
    """Return the folder for the workers' heartbeats: in memory, as these must not wait for a disk,
    or where temporary files are. Raises ConfigError if neither can be written to."""
    if os.access("/dev/shm", os.W_OK):
        return "/dev/shm"
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        raise ConfigError(
            "no folder for temporary files can be written to; name one in TMPDIR"
        ) from None


class Application(BaseApplication):  # type: ignore[misc]  # gunicorn is not typed
    """What gunicorn runs: an application that is made already, and settings."""

    def __init__(self, app: Flask, settings: dict[str, Any]) -> None:
        self.app = app
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self.app


def run_server(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and return.

    With no key in `config` it makes one and prints it on standard error. Raises ConfigError
    (also when the address cannot be bound) and storage.base.CannotOpen before it listens.
    """
    config, key = config.with_generated_key()
    configure_logs(config)
    settings = gunicorn_settings(config)
    # Bind first: a taken port changes no database. Listen last: no client waits meanwhile.
    listener = _bind(config.bind, config.port)
    try:
        app = create_app(config)
        _listen(listener, config)
    except BaseException:
        listener.close()
        raise
    url = _url(listener)
    if key is not None:
        announce_key(key, url)
    settings |= {
        "bind": f"fd://{listener.detach()}",
        "when_ready": lambda _: logger.info(start_line(config, url)),
        "on_exit": log_stop,
    }
    parent = os.getpid()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        Arbiter(Application(app, settings)).run()
    except SystemExit as stop:
        if stop.code or os.getpid() != parent:  # a failure, or the end of a forked worker
            raise
    finally:
        if os.getpid() == parent:
            # gunicorn's own would swallow each signal from here on.
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound here, so that a port in use is known at once."""
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, endpoint = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(endpoint)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _listen(listener: socket.socket, config: ServerConfig) -> None:
    try:
        listener.listen(2048)
    except OSError as error:  # another that was bound here too was the first to listen
        raise _cannot_listen(config.bind, config.port, error) from None


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else "it is no host name"
    return ConfigError(f"cannot listen on {host} port {port}: {reason}")


def _url(listener: socket.socket) -> str:
    return f"http://{address(*listener.getsockname()[:2])}"


def start_line(config: ServerConfig, url: str) -> str:
    """Return the log's line once a server listens at `url`."""
    where = config.storage_type
    if config.location:
        where += f" at {config.shown_location}"
    roles = Counter(key.role.value for key in config.api_keys)
    granted = ", ".join(f"{count} {role}" for role, count in roles.items())
    return f"listening on {url}, storing in {where}, keys: {granted}"


def _close_storage(_: Any, worker: Worker) -> None:
    if worker.booted:
        worker.wsgi.extensions["perfgate"].storage.close()


def log_stop(_: Any) -> None:
    """gunicorn's hook on_exit."""
    logger.info("stopped")
