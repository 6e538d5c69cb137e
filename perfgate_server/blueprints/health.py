"""``/health``."""

from __future__ import annotations

import time

from flask import Blueprint, Response, current_app, g

from perfgate_server.auth import requires
from perfgate_server.blueprints import responses
from perfgate_server.errors import RETRY, log_unavailable
from perfgate_server.storage.base import Unavailable
from perfgate_server.version import VERSION

blueprint = Blueprint("health", __name__)

#: The longest that a health check waits for the storage, in seconds: probes are impatient, and give
#: up after 5 s mostly.
_TIMEOUT = 4.5


@blueprint.get("/health")
@requires(None)
def get_health() -> Response:
    """200 if the storage answers and is the one that was opened, else 503."""
    state = current_app.extensions["perfgate"]
    storage = {"backend": state.storage.backend, "status": "healthy"}
    headers = {"Cache-Control": "no-store"}
    try:
        state.storage.ping(deadline=min(g.deadline, time.monotonic() + _TIMEOUT))
    except Unavailable as error:
        storage |= {"status": "unhealthy", "reason": error.reason}
        log_unavailable(error)
        headers |= RETRY
    body = {"status": storage["status"], "version": VERSION, "storage": storage}
    return responses.json(body, 200 if storage["status"] == "healthy" else 503, headers)
