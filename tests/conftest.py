"""The fixtures: one thin one for each backend, the same tests for all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from postgres_server import OwnPostgres, Postgres, database_of, own_postgres, running_postgres
from support import KEYS, bearer, environment, receipt

from perfgate_server import Role, ServerConfig, create_app, jsonio
from perfgate_server.storage import Storage, open_storage

BACKENDS = ("memory", "sqlite", "postgres")


def pytest_configure() -> None:
    """Told to stop, as by `timeout`, or left by its terminal, end the servers that the tests
    started, as at Ctrl-C."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI every test must run: one that is skipped is no pass."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _plain() -> Iterator[None]:
    """What runs in the tests' own process has no extra, where the servers that they start have
    orjson, and no settings but those of the tests."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "localhost"
    foreign = {*os.environ} - {*environment(), "PERFGATE_TEST_POSTGRES_URL"}
    if "PERFGATE_TEST_POSTGRES_URL" not in os.environ:  # libpq's are for another server then
        foreign |= {name for name in os.environ if name.startswith("PG")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonio, "orjson", None)
        patch.setenv("no_proxy", f"{others},127.0.0.1")  # a proxy is for the world outside
        for name in foreign:
            patch.delenv(name)
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL: the one at PERFGATE_TEST_POSTGRES_URL, or one of the tests' own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """Where a fresh database of PostgreSQL is."""
    with postgres.database() as made:
        yield made


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    """A server that a test may stop and kill."""
    with own_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def shared_url(postgres: Postgres) -> Iterator[str]:
    """Where a database of PostgreSQL is that `location` empties after each test: a fresh one is 300
    files, which ext4 takes long to make when as many have just been deleted."""
    with postgres.database() as made:
        yield made


@pytest.fixture
def location(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where the backend's own empty database is."""
    if backend == "postgres":
        server, url = map(request.getfixturevalue, ("postgres", "shared_url"))
        yield url
        server.empty(database_of(url))
    else:
        yield str(tmp_path / "perfgate.db") if backend == "sqlite" else None


@pytest.fixture
def storage(backend: str, location: str | None) -> Iterator[Storage]:
    opened = open_storage(backend, location, pool_size=16)
    yield opened
    opened.close()


def with_every_key(**settings: Any) -> ServerConfig:
    """Return a configuration for applications that are tested."""
    made = ServerConfig(max_body_size=2**20, **settings)
    for role, key in KEYS.items():
        made = made.api_key(key, Role(role))
    return made


@pytest.fixture
def config(backend: str, location: str | None) -> ServerConfig:
    return with_every_key(storage_type=backend, database_url=location)


Create = Callable[[ServerConfig], Flask]


class Api:
    """The application's test client, with short words for what tests do all the time."""

    def __init__(self, client: FlaskClient, root: str = "") -> None:
        self.client = client
        self.root = root

    def __call__(self, method: str, path: str, role: str | None = "admin", **options: Any) -> Any:
        headers = (bearer(role) if role else {}) | options.pop("headers", {})
        if options.get("json", ...) is not ...:
            options["data"] = json.dumps(options.pop("json"))  # Flask's own would sort members
            options.setdefault("content_type", "application/json")
        return self.client.open(self.root + path, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self("GET", path, **options)

    def upload(self, benchmark: Any = "b", version: Any = "v1", **options: Any) -> Any:
        """POST a receipt to project p."""
        project = options.pop("project", "p")
        role = options.pop("role", "admin")
        envelope = {"benchmark": benchmark, "version": version, "receipt": receipt(), **options}
        return self("POST", f"/projects/{project}/baselines", role=role, json=envelope)

    def put(
        self, benchmark: str = "b", version: str = "v1", query: str = "", **options: Any
    ) -> Any:
        options.setdefault("json", receipt())
        path = f"/projects/p/baselines/{benchmark}/versions/{version}{query}"
        return self("PUT", path, **options)

    def promote(self, source: str, target: str, benchmark: str = "b", **members: Any) -> Any:
        path = f"/projects/p/baselines/{benchmark}/promote"
        role = members.pop("role", "admin")
        body = {"from_version": source, "to_version": target, **members}
        return self("POST", path, role=role, json=body)

    def delete(self, version: str = "v1", benchmark: str = "b", **options: Any) -> Any:
        return self("DELETE", f"/projects/p/baselines/{benchmark}/versions/{version}", **options)

    def versions_listed(self, query: str = "", **options: Any) -> list[str]:
        answer = self.list(query, **options)
        assert answer.status_code == 200, answer.text
        return [entry["version"] for entry in answer.json["baselines"]]

    def list(self, query: str = "", project: str = "p", **options: Any) -> Any:
        return self.get(f"/projects/{project}/baselines{query}", **options)


@pytest.fixture
def create() -> Iterator[Create]:
    """create_app, for applications whose storage is closed at the end."""
    apps: list[Flask] = []

    def create(config: ServerConfig) -> Flask:
        apps.append(create_app(config))
        return apps[-1]

    yield create
    for app in apps:
        app.extensions["perfgate"].storage.close()


@pytest.fixture
def api(config: ServerConfig, create: Create) -> Api:
    """The API of a fresh server, on each backend."""
    return Api(create(config).test_client())


@pytest.fixture
def quick(create: Create) -> Api:
    """The API without a database, for what is refused before one is asked."""
    return Api(create(with_every_key()).test_client())
