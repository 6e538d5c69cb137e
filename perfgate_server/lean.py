"""Flask without what this service does not use, which every request pays for: about an eighth of
the time that the application takes for a small answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import Headers
from werkzeug.routing import Map, MapAdapter, Rule

#: Entries of the route cache, and the longest path in it, in characters: enough for the names in
#: use, and a few megabytes at most.
_PATHS, _LONGEST = 1024, 512


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


class _Routes(Map):
    """Routes without redirects, so that a path and a method always lead to the same place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._remembered = functools.lru_cache(_PATHS)(self._find)

    def find(self, path: str, method: str) -> tuple[Rule, dict[str, Any]]:
        find = self._remembered if len(path) <= _LONGEST else self._find
        rule, arguments = find(path, method)
        return rule, {**arguments}  # each request has its own to change

    def _find(self, path: str, method: str) -> tuple[Rule, Mapping[str, Any]]:
        return self.bind("").match(path, method, return_rule=True)


class _Adapter(MapAdapter):
    """Finds a route without looking for it again: werkzeug tries one expression after the other,
    and leaves a cycle for the garbage collector. Answers with the rule, as Flask always asks."""

    map: _Routes

    def match(
        self, path_info: str | None = None, method: str | None = None, *_: Any, **__: Any
    ) -> Any:
        return self.map.find(path_info or self.path_info, method or self.default_method)


class App(Flask):
    """Flask without sessions, asynchronous views, redirects from one route to another, and routes
    or URLs that depend on the host."""

    session_interface = _NoSessions()
    url_map_class = _Routes

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return super().create_url_adapter(None)
        environ = request.environ
        return _Adapter(
            self.url_map,
            server_name="",
            script_name=request.root_path,
            subdomain="",
            url_scheme=environ["wsgi.url_scheme"],
            path_info=request.path,
            default_method=environ["REQUEST_METHOD"],
        )
