"""Flask, made lean: what its short ways must not change."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, request

from perfgate_server.lean import App


def view(**arguments: Any) -> dict[str, Any]:
    return arguments


def with_routes(app: Flask) -> Flask:
    app.url_map.merge_slashes = False
    app.add_url_rule("/of/<name>", "one", view, methods=["GET", "POST"])
    app.add_url_rule("/of/<int:number>/part", "part", view)
    app.add_url_rule("/of/part/<path:rest>", "rest", view, methods=["DELETE"])
    return app


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "BREW", "get"])
@pytest.mark.parametrize(
    "path",
    ["/of/a", "/of/7/part", "/of/x/part", "/of/part/part", "/of/part/a/b", "/of/", "/", "//of/a"],
)
def test_a_path_leads_where_flask_leads_it_each_time(path: str, method: str) -> None:
    plain = with_routes(Flask("plain", static_folder=None)).test_client()
    lean = with_routes(App("lean", static_folder=None)).test_client()
    expected = plain.open(path, method=method)
    for _ in range(2):
        answer = lean.open(path, method=method)
        assert (answer.status_code, answer.data) == (expected.status_code, expected.data)
        assert answer.allow == expected.allow


def test_no_request_sees_what_another_did_to_its_arguments() -> None:
    app = with_routes(App("lean", static_folder=None))

    @app.before_request
    def add_one() -> None:
        assert request.view_args is not None
        request.view_args["number"] += 1

    client = app.test_client()
    assert [client.get("/of/7/part").json for _ in range(3)] == [{"number": 8}] * 3


def test_only_paths_that_lead_somewhere_and_are_not_long_are_remembered() -> None:
    app = with_routes(App("lean", static_folder=None))
    client = app.test_client()
    for number in range(20):
        assert client.get(f"/nowhere/{number}").status_code == 404
        assert client.put("/of/a").status_code == 405
        assert client.get(f"/of/{number}{'x' * 600}").status_code == 200
    for _ in range(3):
        assert client.get("/of/a").status_code == 200
    known = app.url_map._remembered.cache_info()  # type: ignore[attr-defined]  # our class of map
    assert (known.currsize, known.hits) == (1, 2)
    assert known.maxsize is not None
