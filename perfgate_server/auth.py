"""Who may do what: `requires` marks a view, `enforce` is the hook that holds it to that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from flask import Request, current_app, g, request
from marshmallow import ValidationError

from perfgate_server import keys, names
from perfgate_server.errors import ApiError
from perfgate_server.keys import ApiKey, Permission

View = TypeVar("View", bound=Callable[..., Any])

#: The part of --timeout in which the storage must have done its work. With the rest the answer
#: reaches a client that waits for as long as --timeout, as the perfgate client does by default.
_FOR_STORAGE = 0.9


def requires(permission: Permission | None) -> Callable[[View], View]:
    """Mark a view with the permission that its callers need; None: not even a key."""

    def mark(view: View) -> View:
        cast(Any, view).permission = permission
        return view

    return mark


def enforce() -> None:
    """Let a request to a view pass, or raise: 401 for its key, 403 for its reach, 400 for its path.

    It touches no body, and it does not look whether the thing asked for exists. From here on the
    request has a deadline, and a key unless the view needs none.
    """
    # Each look through one of Flask's proxies costs a microsecond.
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # the proxy's
    asked = request._get_current_object()  # type: ignore[attr-defined]  # the proxy's
    if asked.endpoint is None or asked.method == "OPTIONS":
        return  # no view is called
    set_deadline()
    # Of a view that was not marked this is an AttributeError: 500, for every key.
    permission = cast(Any, app.view_functions[asked.endpoint]).permission
    if permission is None:
        return
    g.key = key = _authenticate(asked, app.extensions["perfgate"].keys)
    path = asked.view_args or {}
    check_permission(permission)
    if not key.reaches(path["project"]):
        raise _forbidden("project", "The key does not reach this project.")
    if "benchmark" in path:
        check_benchmark(path["benchmark"])
    _check_names(path)


def set_deadline() -> None:
    """Give the request its deadline, or a new one: when most of --timeout has passed from now."""
    g.deadline = time.monotonic() + _FOR_STORAGE * current_app.extensions["perfgate"].config.timeout


def check_permission(permission: Permission) -> None:
    """Raise 403 if the role of the request's key does not grant `permission`."""
    role = g.key.role
    if permission not in role.permissions:
        raise _forbidden("role", f"The key's role, {role.value}, may not {permission.value}.")


def check_benchmark(benchmark: str) -> None:
    """Raise 403 if the request's key does not reach `benchmark`. An invalid name passes: it
    becomes a 400 where names are checked, as it does for other keys."""
    if not g.key.sees(benchmark) and names.BENCHMARK.match(benchmark):
        raise _forbidden("benchmark", "The key does not reach this benchmark.")


def _authenticate(asked: Request, known: Mapping[str, ApiKey]) -> ApiKey:
    header = asked.environ.get("HTTP_AUTHORIZATION")
    if header is None:
        raise _unauthorized("An API key is needed: -H 'Authorization: Bearer pg_live_…'.")
    scheme, _, token = header.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not keys.is_well_formed(token):
        raise _unauthorized(f"The Authorization header is not 'Bearer' and a key, {keys.KEY_RULE}.")
    digest = keys.digest(token)
    key = known.get(digest)
    if key is None:
        g.unknown_key = keys.id_of(digest)  # so that the log tells who still has an old one
        raise _unauthorized("The API key is not known here.")
    return key


def _forbidden(denied: str, message: str) -> ApiError:
    return ApiError(403, message, {"denied": denied})


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": 'Bearer realm="perfgate"'})


def _check_names(path: Mapping[str, Any]) -> None:
    wrong = {
        kind: names.RULES[kind][1]
        for kind, name in path.items()
        if not names.RULES[kind][0].match(name)
    }
    if wrong:
        raise ValidationError(wrong)
