"""The application factory."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import click
from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.exceptions import NotFound
from werkzeug.middleware.proxy_fix import ProxyFix

from perfgate_server import errors, logs
from perfgate_server.blueprints import baselines, health
from perfgate_server.config import ConfigError, ServerConfig, error_line
from perfgate_server.keys import ApiKey, redact
from perfgate_server.storage import Storage, open_storage
from perfgate_server.storage.base import CannotOpen

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class State:
    """What requests share; it stands at ``app.extensions["perfgate"]``."""

    config: ServerConfig
    keys: Mapping[str, ApiKey]
    storage: Storage


def create_app(config: ServerConfig | None = None) -> Flask:
    """Return the WSGI application for `config`.

    Without a configuration it reads the environment and configures logging, as
    ``flask --app perfgate_server run`` wants it. The storage is created and migrated here, and
    holds no connection: a fork may follow. Raises ConfigError and storage.base.CannotOpen.
    """
    if config is None:
        return _create_standalone()
    app = Flask("perfgate_server", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.converters.update(baselines.CONVERTERS)
    app.extensions["perfgate"] = State(
        config,
        {key.digest: key for key in config.api_keys},
        open_storage(
            config.storage_type,
            config.location,
            timeout=config.timeout,
            pool_size=config.effective_pool_size,
        ),
    )
    app.before_request(_identify)
    app.after_request(_show_request_id)
    logs.init_app(app)
    app.before_request(_refuse_leading_slashes)
    errors.init_app(app)
    for prefix, name in (("", "root"), ("/api/v1", "v1")):
        app.register_blueprint(health.blueprint, url_prefix=prefix, name=f"health_{name}")
        app.register_blueprint(baselines.blueprint, url_prefix=prefix, name=f"baselines_{name}")
    if not config.no_cors:
        _allow_cross_origin(app)
    hops = config.trusted_proxies
    if hops:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # how Flask adds middleware
            app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops
        )
    return app


def _create_standalone() -> Flask:
    try:
        config, key = ServerConfig.load().with_some_key()
        logs.configure(config.log_level, config.log_format)
        app = create_app(config)
    except (ConfigError, CannotOpen) as error:
        if click.get_current_context(silent=True) is None:
            raise
        # In the flask command, which would show a traceback.
        print(error_line(error), file=sys.stderr)
        sys.exit(2)
    if key is not None:
        announce_key(key, _development_url())
    return app


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
    return f"http://{options.get('host') or '127.0.0.1'}:{options.get('port') or 5000}"


def _identify() -> None:
    given = request.headers.get("X-Request-ID", "")
    fits = _REQUEST_ID.match(given) and redact(given) == given
    g.request_id = given if fits else secrets.token_hex(16)


def _refuse_leading_slashes() -> None:
    # werkzeug takes them off before it looks for a route.
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound


def _show_request_id(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    return response


def _allow_cross_origin(app: Flask) -> None:
    # Registered first, so it runs after flask-cors, which knows no routes.
    app.after_request(_allow_routed_methods)
    CORS(
        app,
        origins="*",
        send_wildcard=True,
        supports_credentials=False,
        methods=["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "If-Match",
            "If-None-Match",
            "X-Request-ID",
        ],
        expose_headers=[
            "ETag",
            "Link",
            "Location",
            "Perfgate-Baseline",
            "Perfgate-Verdict",
            "Retry-After",
            "X-Request-ID",
        ],
    )


def _allow_routed_methods(response: Response) -> Response:
    if "Access-Control-Allow-Methods" in response.headers and "Allow" in response.headers:
        methods = ", ".join(sorted(response.allow))
        response.headers["Access-Control-Allow-Methods"] = methods
    return response
