"""gunicorn as the server, for wsgi.py and gunicorn.conf.py."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import replace
from typing import Any

from flask import Flask

from perfgate_server import logs
from perfgate_server.app import configure_logs, create_app, make_state
from perfgate_server.arbiter import Arbiter, tell_of_hangup
from perfgate_server.config import ConfigError, ServerConfig, address
from perfgate_server.server import gunicorn_settings, log_stop, start_line
from perfgate_server.storage.base import CannotOpen
from perfgate_server.terminal import end
from perfgate_server.worker import Worker

logger = logging.getLogger(__name__)

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
        "when_ready": lambda server: logger.info(start_line(config, _listening(server))),
        "on_exit": log_stop,
        "on_reload": tell_of_hangup,
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
    if (workers, threads) != (config.effective_workers, config.threads):
        try:
            extensions["perfgate"] = make_state(replace(config, workers=workers, threads=threads))
        except (ConfigError, CannotOpen) as error:
            end(error)


def _listening(server: Any) -> str:
    """Return where gunicorn listens; with --reuse-port only its workers do."""
    return ", ".join(map(str, server.LISTENERS or server.cfg.bind))
