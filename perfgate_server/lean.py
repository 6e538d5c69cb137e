"""Flask without what this service does not use, which every request pays for: about an eighth of
the time that the application takes for a small answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter


class _NoSessions(SessionInterface):
    """Gives every request the same session, which cannot be written to."""

    _session = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._session


class Answer(Response):
    """A response that is made with its whole body, and has all its headers when it is sent.

    werkzeug's would copy the headers, and look among them for what is still to be set.
    """

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:
        if self.status_code == 304:
            self.headers.remove("Content-Type")  # every Response has one, but this no content
        return self.headers


class App(Flask):
    """Flask without sessions, asynchronous views, and routes or URLs that depend on the host."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return super().create_url_adapter(None)
        environ = request.environ
        return MapAdapter(
            self.url_map,
            server_name="",
            script_name=request.root_path,
            subdomain="",
            url_scheme=environ["wsgi.url_scheme"],
            path_info=request.path,
            default_method=environ["REQUEST_METHOD"],
        )
