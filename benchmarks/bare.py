"""The reference of the speed measurements: bare Flask views under perfgate-server's gunicorn
settings, which answer constant bytes and know no key, no request id and no log line.

    python benchmarks/bare.py PORT

``GET /bytes/N`` answers N bytes; ``POST /json/N`` reads the JSON body and answers 201 with N bytes.
"""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

from flask import Flask, Response, request

from perfgate_server.arbiter import Arbiter
from perfgate_server.config import ServerConfig
from perfgate_server.server import Application, gunicorn_settings


@functools.cache
def _constant(size: int) -> bytes:
    return b"x" * size


def create_bare_app(config: ServerConfig) -> Flask:
    app = Flask("bare", static_folder=None)
    # What our gunicorn worker looks at.
    storage = SimpleNamespace(close=lambda: None)
    app.extensions["perfgate"] = SimpleNamespace(config=config, storage=storage)

    @app.get("/bytes/<int:size>")
    def read(size: int) -> Response:
        return Response(_constant(size), mimetype="application/json")

    @app.get("/unchanged")
    def unchanged() -> Response:
        return Response(status=304)

    @app.post("/json/<int:size>")
    def write(size: int) -> Response:
        request.get_json()
        return Response(_constant(size), 201, mimetype="application/json")

    return app


def main() -> None:
    config = ServerConfig(storage_type="sqlite")
    settings = gunicorn_settings(config) | {"bind": f"127.0.0.1:{sys.argv[1]}"}
    Arbiter(Application(create_bare_app(config), settings)).run()


if __name__ == "__main__":
    main()
