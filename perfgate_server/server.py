"""gunicorn: its settings; embedded, for `run_server`; and on its own, for wsgi.py and
gunicorn.conf.py."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from dataclasses import replace
from typing import Any, cast

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from perfgate_server import logs
from perfgate_server.app import announce_key, configure_logs, create_app, make_state
from perfgate_server.config import ConfigError, ServerConfig, address
from perfgate_server.storage.base import CannotOpen
from perfgate_server.terminal import end
from perfgate_server.worker import NOBODY, OWN_SIGNALS, Worker, load_of

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
        "threads": config.effective_threads,
        # The application is made once, before the workers: what is wrong shows before anything
        # listens, and a worker that is started later can neither create nor migrate a database.
        "preload_app": True,
        # Longer than nginx keeps its idle connections (60 s), so that nginx closes them first.
        "keepalive": 75,
        # The worker's heart beats beside the requests. This kills it when it is stuck whole,
        # later than any request that could have been answered.
        "timeout": int(config.timeout) + 30,
        "graceful_timeout": int(config.timeout) + 5,
        "worker_tmp_dir": _heartbeats(),
        "pre_fork": _before_fork,
        "child_exit": _clear_place,
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


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn is not typed
    def __init__(self, app: Flask, settings: dict[str, Any]) -> None:
        self.app = app
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self.app


#: Seconds between two looks at the workers' hearts, which are one apart or less, after which this
#: process cannot have run all the time; and in which all hearts beat again.
_STOOD_STILL = 5.0


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn is not typed
    _looked_at = _went_on_at = 0.0

    def handle_hup(self) -> None:
        """Replace the workers, but for the one that is all there is of storage `memory`.

        gunicorn's own would wait here for the old ones to end, and hear no signal meanwhile.
        """
        _tell_of_hangup(self)
        if not self._keeps_memory():
            for _ in range(self.num_workers):
                self.spawn_worker()  # `manage_workers` then stops the oldest

    def reap_workers(self) -> None:
        """End with the worker that held storage `memory`: another would be an empty store, where
        a gate finds nothing to compare with."""
        super().reap_workers()
        is_stopping = not self.LISTENERS
        if self._keeps_memory() and not self.WORKERS and not is_stopping:
            raise HaltServer("the process that held storage memory is gone, and all with it", 1)

    def handle_ttin(self) -> None:
        if self._keeps_memory():
            logger.warning("SIGTTIN: there is one worker; storage memory lives in one process")
        else:
            super().handle_ttin()

    def handle_usr2(self) -> None:
        """Start no second server beside this one: it could not bind the same address."""
        logger.warning("SIGUSR2: there is no second server beside this one; restart it")

    def spawn_worker(self) -> int | None:
        """Start a worker; one that cannot be started, for want of memory or processes, is tried
        again by the main loop. gunicorn's own would end them all."""
        parent = os.getpid()
        try:
            return cast(int, super().spawn_worker())
        except OSError as error:
            if os.getpid() != parent:
                raise
            logger.error("no worker can be started: %s", error.strerror)
            return None

    def murder_workers(self) -> None:
        """Kill workers whose hearts have stopped, but not at once where this process was stopped
        itself, as by Ctrl-Z or with its machine: theirs stood still as long."""
        now = time.monotonic()
        if now - self._looked_at >= _STOOD_STILL:
            self._went_on_at = now
        self._looked_at = now
        if now - self._went_on_at >= _STOOD_STILL:
            super().murder_workers()

    def handle_quit(self) -> None:
        """Stop as on SIGTERM, and hear a second signal."""
        raise StopIteration

    def _keeps_memory(self) -> bool:
        return bool(self.app.app.extensions["perfgate"].config.storage_type == "memory")

    def handle_int(self) -> None:
        """Stop on Ctrl-C as on SIGTERM: gunicorn then hears a second one, and waits no longer for
        the requests in flight."""
        raise StopIteration


def run_server(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and return.

    With no key in `config` it makes one and prints it on standard error. Raises ConfigError
    (also when the address cannot be bound) and storage.base.CannotOpen before it listens.
    """
    config, key = config.with_some_key()
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
        "when_ready": lambda _: logger.info(_started(config, url)),
        "on_exit": _log_stop,
    }
    parent = os.getpid()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        _Arbiter(_Application(app, settings)).run()
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


def _started(config: ServerConfig, url: str) -> str:
    where = config.storage_type
    if config.location:
        where += f" at {config.shown_location}"
    roles = Counter(key.role.value for key in config.api_keys)
    granted = ", ".join(f"{count} {role}" for role, count in roles.items())
    return f"listening on {url}, storing in {where}, keys: {granted}"


#: The signals that `_before_fork` has blocked in this process.
_blocked: set[signal.Signals] = set()


def _before_fork(arbiter: Any, worker: Worker) -> None:
    _assign(arbiter, worker)
    # Until a worker has its own handlers it would run the main process's, which swallow the
    # signal. `Worker.init_signals` lets it through there, and `_after_fork` here.
    if isinstance(worker, Worker):  # any other would never hear it
        _blocked.update(OWN_SIGNALS - signal.pthread_sigmask(signal.SIG_BLOCK, OWN_SIGNALS))


def _after_fork() -> None:
    if _blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _blocked)
        _blocked.clear()


# gunicorn has no hook for after the fork in the main process.
os.register_at_fork(after_in_parent=_after_fork)


def _assign(arbiter: Any, worker: Worker) -> None:
    """Give a worker a place, and a core that the fewest others have, of those that this process
    may use."""
    others = arbiter.WORKERS.values()
    places = {other.place for other in others}
    worker.place = next((n for n in range(len(load_of)) if n not in places), None)
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        taken = Counter(other.core for other in others)
        cores = [*os.sched_getaffinity(0)]
        random.shuffle(cores)  # so that two servers do not both begin with the first
        worker.core = min(cores, key=taken.__getitem__)


def _clear_place(_: Any, worker: Worker) -> None:
    if worker.place is not None:
        load_of[worker.place] = NOBODY


def _close_storage(_: Any, worker: Worker) -> None:
    if worker.booted:
        worker.wsgi.extensions["perfgate"].storage.close()


def _tell_of_hangup(_: Any) -> None:
    logger.warning("SIGHUP: keys and settings are read at start alone; restart to change them")


def _log_stop(_: Any) -> None:
    logger.info("stopped")


# -- gunicorn as the server, with wsgi.py and gunicorn.conf.py

#: Is set for the workers of a gunicorn that has read our gunicorn.conf.py.
_CONFIGURED = "PERFGATE_GUNICORN_CONFIGURED"


def wsgi_config() -> ServerConfig:
    """Return the environment's configuration for many processes: in SQLite if not told where.

    Raises ConfigError for memory, which lives in one process, and without any key.
    """
    config = ServerConfig.load(storage_type="sqlite")
    if config.storage_type == "memory":
        raise ConfigError("wsgi.py serves many processes; storage type memory lives in one")
    if not config.api_keys:
        raise ConfigError("wsgi.py needs keys: set PERFGATE_API_KEYS or PERFGATE_API_KEYS_FILE")
    return config


def create_wsgi_app() -> Flask:
    """Return the application for wsgi.py, or end the process with one line."""
    try:
        if "gunicorn" in os.environ.get("SERVER_SOFTWARE", "") and _CONFIGURED not in os.environ:
            # Its workers would each create the database, also one that was removed meanwhile.
            raise ConfigError(
                "gunicorn has not read gunicorn.conf.py, which stands beside wsgi.py: start it"
                " there, or with -c and its path"
            )
        config = wsgi_config()
        # Misspelt variables gunicorn.conf.py has told of.
        logs.configure(config.log_level, config.log_format)
        return create_app(config)
    except (ConfigError, CannotOpen) as error:
        # Without our gunicorn.conf.py a worker comes here, and gunicorn starts another for
        # ever, unless it ends with this status.
        end(error, Arbiter.WORKER_BOOT_ERROR)


@functools.cache
def wsgi_settings() -> dict[str, Any]:
    """Return gunicorn's settings for gunicorn.conf.py. Cached: gunicorn reads that again at a
    SIGHUP, when an error would end it and new settings would not reach the application.

    What would keep the application from starting ends the process here, with one line and exit
    status 2: later, gunicorn would answer it with a traceback, or start workers for ever.
    """
    try:
        config = wsgi_config()
        configure_logs(config)
        settings = gunicorn_settings(config)
        create_app(config).extensions["perfgate"].storage.close()
    except (ConfigError, CannotOpen) as error:
        end(error)
    os.environ[_CONFIGURED] = "yes"
    return settings | {
        "bind": address(config.bind, config.port),
        "on_starting": lambda server: _take_options(config, server),
        "when_ready": lambda server: logger.info(_started(config, _listening(server))),
        "on_exit": _log_stop,
        "on_reload": _tell_of_hangup,
    }


def _take_options(config: ServerConfig, server: Any) -> None:
    """Let gunicorn's own options hold for the application too, which was made by `config`, or end
    the process with one line."""
    extensions = server.app.wsgi().extensions
    if extensions["perfgate"].config != config:
        # It has read its variables after -e, and gunicorn's settings came before.
        end("gunicorn's -e comes too late for PERFGATE_ variables: set them before it starts")
    if not issubclass(server.worker_class, Worker):
        logger.warning(
            "workers of gunicorn's class %s: no client is bounded, and clients are not shared out",
            server.worker_class.__name__,
        )
    workers, threads = server.cfg.workers, server.cfg.threads
    if (workers, threads) != (config.effective_workers, config.effective_threads):
        try:
            extensions["perfgate"] = make_state(replace(config, workers=workers, threads=threads))
        except (ConfigError, CannotOpen) as error:
            end(error)


def _listening(server: Any) -> str:
    """Return where gunicorn listens; with --reuse-port only its workers do."""
    return ", ".join(map(str, server.LISTENERS or server.cfg.bind))
