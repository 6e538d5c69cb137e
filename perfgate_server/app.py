"""The application factory."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
from flask import Flask, Response, g, request
from flask.cli import ScriptInfo
from flask_cors import cross_origin
from werkzeug.exceptions import NotFound
from werkzeug.middleware.proxy_fix import ProxyFix

from perfgate_server import errors, logs
from perfgate_server.auth import enforce
from perfgate_server.blueprints import baselines, compare, health, routes, verdicts
from perfgate_server.config import ConfigError, ServerConfig, address, misspelt
from perfgate_server.keys import ApiKey, redact
from perfgate_server.lean import App
from perfgate_server.storage import Storage, open_storage
from perfgate_server.storage.base import CannotOpen
from perfgate_server.terminal import end

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class State:
    """What requests share; it stands at ``app.extensions["perfgate"]``."""

    config: ServerConfig
    keys: Mapping[str, ApiKey]
    storage: Storage


def make_state(config: ServerConfig) -> State:
    """Create or migrate the storage that `config` names; raises storage.base.CannotOpen."""
    storage = open_storage(
        config.storage_type,
        config.location,
        pool_size=config.effective_pool_size,
        shared=config.effective_workers > 1,
    )
    return State(config, {key.digest: key for key in config.api_keys}, storage)


def create_app(config: ServerConfig | None = None) -> Flask:
    """Return the WSGI application for `config`.

    Without a configuration it reads the environment and configures logging, as
    ``flask --app perfgate_server run`` wants it. The storage is created and migrated here, and
    holds no connection: a fork may follow. Raises ConfigError and storage.base.CannotOpen; under
    the `flask` command both end the process with one line.
    """
    if config is None:
        return _create_standalone()
    app = App("perfgate_server", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.converters.update(routes.CONVERTERS)
    app.extensions["perfgate"] = make_state(config)
    app.before_request(_begin)
    app.before_request(enforce)
    # Run in reverse order: `_finish` logs what is sent.
    app.after_request(_finish)
    if not config.no_cors:
        app.after_request(_allow_cross_origin)
    errors.init_app(app)
    for prefix, root in (("", "root"), ("/api/v1", "v1")):
        for module in (health, baselines, compare, verdicts):
            name = f"{module.blueprint.name}_{root}"
            app.register_blueprint(module.blueprint, url_prefix=prefix, name=name)
    hops = config.trusted_proxies
    if hops:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # how Flask adds middleware
            app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops
        )
    return app


def _create_standalone() -> Flask:
    context = click.get_current_context(silent=True)
    in_flask_command = context is not None and context.find_object(ScriptInfo) is not None
    try:
        config, key = ServerConfig.load().with_generated_key()
        configure_logs(config)
        app = create_app(config)
    except (ConfigError, CannotOpen) as error:
        if not in_flask_command:
            raise
        end(error)  # the command would show a traceback
    if key is not None:
        announce_key(key, _development_url())
        if in_flask_command:
            # With --debug this process starts another to serve, and again after each change.
            os.environ["PERFGATE_API_KEYS"] = f"admin:{key}"
    return app


def configure_logs(config: ServerConfig) -> None:
    """Configure logging as `config` says, and warn of misspelt PERFGATE_ variables."""
    logs.configure(config.log_level, config.log_format)
    for sentence in misspelt(os.environ):
        logger.warning(sentence)


def announce_key(key: str, url: str) -> None:
    """Print a key that was made at start, once, with a line to try it."""
    reachable = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    print(
        f"No API key is configured. This one (admin) is good until the server stops:\n\n"
        f"  {key}\n\n"
        f"  curl -H 'Authorization: Bearer {key}' {reachable}/projects/demo/baselines\n",
        file=sys.stderr,
        flush=True,
    )


def _development_url() -> str:
    """Return the URL that `flask run` is about to serve."""
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    host = options.get("host") or "127.0.0.1"
    # Which port it will be, if any free one is asked for, nobody knows yet.
    port = options.get("port", 5000) or "PORT"
    scheme = "https" if options.get("cert") else "http"
    return f"{scheme}://{address(host, port)}"


def _begin() -> None:
    """Give the request its id and its start, before anything can go wrong with it."""
    environ = request.environ
    given = environ.get("HTTP_X_REQUEST_ID", "")
    fits = _REQUEST_ID.match(given) and redact(given) == given
    # It need not be a secret, so no call of the system is spent on it.
    g.request_id = given if fits else f"{random.getrandbits(128):032x}"
    logs.start(environ)
    if environ.get("PATH_INFO", "").startswith("//"):
        # werkzeug has taken leading slashes off before it looked for a route.
        request.path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        request.url_rule = request.view_args = None
        raise NotFound


def _finish(response: Response) -> Response:
    response.headers.add("X-Request-ID", g.request_id)
    logs.finish(response)
    return response


_answer_preflight: Callable[[Response], Response] = cross_origin(
    origins="*",
    send_wildcard=True,
    supports_credentials=False,
    automatic_options=False,
    methods=["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"],
    allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "X-Request-ID"],
    expose_headers=errors.EXPOSED,
    max_age=7200,  # seconds, the most that Chromium keeps it; without it browsers ask again after 5
)(lambda response: response)


def _allow_cross_origin(response: Response) -> Response:
    if request.method != "OPTIONS":
        # The same for every origin, and so for every cache. Asking flask-cors for them takes a
        # tenth of the time of a small answer.
        response.headers.add("Access-Control-Allow-Origin", "*")
        response.headers.add("Access-Control-Expose-Headers", errors.EXPOSED)
        return response
    response = _answer_preflight(response)
    if "Access-Control-Allow-Methods" in response.headers and "Allow" in response.headers:
        # flask-cors knows no routes.
        methods = ", ".join(sorted(response.allow))
        response.headers["Access-Control-Allow-Methods"] = methods
    return response
