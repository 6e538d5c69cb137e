"""Databases that earlier versions made: each is upgraded with everything in it, or left as it was.

`dumps/` holds one of each schema that was released, and the export of what is in it.
"""

from __future__ import annotations

import io
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment, soon, stored

from perfgate_server import transfer
from perfgate_server.storage import migrate, open_storage
from perfgate_server.storage.base import CannotOpen, Filters, Page, Storage
from perfgate_server.storage.verdicts import VerdictFilters

DUMPS = sorted((ROOT / "tests" / "dumps").glob("*.sql"))


class Aged:
    """A database that was filled from a dump, and nothing else has opened yet."""

    def __init__(self, dump: Path, location: str) -> None:
        self.backend, version = dump.stem.split("-")
        self.version = int(version)
        self.export = dump.with_suffix(".ndjson").read_bytes()
        self.location = location
        self._run(dump.read_text("utf-8"))

    def _run(self, script: str) -> None:
        if self.backend == "sqlite":
            with closing(sqlite3.connect(self.location)) as db:
                db.executescript(script)
        else:
            import psycopg

            with psycopg.connect(self.location) as connection:
                connection.execute(script.encode())

    def opened(self) -> Storage:
        return open_storage(self.backend, self.location, pool_size=2)

    def contents(self) -> Any:
        """Return all that is in the database, the schema too, read without the storage."""
        if self.backend == "sqlite":
            with closing(sqlite3.connect(self.location)) as db:
                return list(db.iterdump())
        import psycopg

        with psycopg.connect(self.location) as db:
            columns = db.execute(
                """SELECT table_name, column_name, data_type FROM information_schema.columns
                   WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"""
            ).fetchall()
            tables = {table for table, *_ in columns}
            rows = {
                table: sorted(map(repr, db.execute(f"SELECT * FROM {table}".encode())))
                for table in tables
            }
            return columns, rows


@pytest.fixture(params=DUMPS, ids=lambda dump: dump.stem)
def aged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Aged]:
    """A database of each earlier schema in turn."""
    dump: Path = request.param
    if dump.stem.startswith("sqlite"):
        yield Aged(dump, str(tmp_path / "perfgate.db"))
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield Aged(dump, url)


def exported(storage: Storage) -> bytes:
    out = io.BytesIO()
    transfer.export(storage, out, lambda _: None)
    return out.getvalue()


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_migration_is_known_and_no_other(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes back to an earlier version in a clone installs what the newer one built there: the
    earlier program upgraded the databases of others, and took a newer one for its own."""
    folder = ROOT / "migrations" / dialect
    assert len([*folder.glob("*.sql")]) == migrate.NEWEST[dialect] == len(migrate.load(dialect))
    shutil.copytree(folder, tmp_path / dialect)
    (tmp_path / dialect / "0099_later.sql").write_text("DROP TABLE baselines;")
    monkeypatch.setattr(migrate, "_folder", lambda dialect: tmp_path / dialect)
    assert migrate.load(dialect)[-1].version == migrate.NEWEST[dialect]
    with pytest.raises(CannotOpen, match="newer perfgate-server"):
        migrate.missing(dialect, migrate.NEWEST[dialect] + 1)


def test_every_schema_that_was_released_is_kept() -> None:
    dialects = ("sqlite", "postgres")
    earlier = {
        f"{dialect}-{migration.version:04}"
        for dialect in dialects
        for migration in migrate.load(dialect)[:-1]
    }
    assert {dump.stem for dump in DUMPS} >= earlier


def test_it_is_upgraded_with_everything_in_it(aged: Aged) -> None:
    """Byte for byte, so every ETag a client holds is good; and it works on from there."""
    with closing(aged.opened()) as storage:
        assert storage.counts(deadline=soon()).schema_version == len(migrate.load(aged.backend))
        assert exported(storage) == aged.export
        newest = storage.latest("web", "api/list", receipt=True, deadline=soon())
        assert newest.version == "normal" and newest.receipt
        for tag, versions in (("größer", ["v1"]), ("nightly", ["prod", "v1"])):
            found = storage.list("web", Filters(tags=[tag]), Page(limit=9), deadline=soon())
            assert [record.version for record in found.records] == versions
        for project in ("web", "cli"):
            found = storage.list(project, Filters(), Page(limit=99), deadline=soon())
            assert found.total == len(found.records) > 0
            judged = storage.list_verdicts(project, VerdictFilters(), Page(99), deadline=soon())
            assert judged.total == len(judged.records)
        # What was deleted last has had a place in the order; it is not given again.
        kept, created = storage.create(*stored("gone", "v1", "web"), deadline=soon())
        assert created and kept.sequence > 9
        for version in ("orphan", "again"):
            storage.create(*stored("api/list", "again", "cli"), deadline=soon())
            storage.delete("cli", "api/list", version, deadline=soon())
    if aged.backend == "sqlite":
        with closing(sqlite3.connect(aged.location)) as db:
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_an_upgrade_is_told_of_once(aged: Aged, caplog: pytest.LogCaptureFixture) -> None:
    """An earlier program refuses the database from then on."""
    newest = len(migrate.load(aged.backend))
    with caplog.at_level("INFO", "perfgate_server"):
        for _ in range(2):
            aged.opened().close()
    said = f"the database was upgraded from schema {aged.version} to {newest}"
    assert caplog.messages == [said] * (aged.version < newest)


def test_who_only_looks_at_it_leaves_it_as_it_is(aged: Aged) -> None:
    """A backup, say, for which the earlier program may be wanted again; or a server runs on it."""
    before = aged.contents()
    with pytest.raises(CannotOpen, match=f"earlier perfgate-server .schema {aged.version};"):
        open_storage(aged.backend, aged.location, pool_size=1, create=False)
    assert aged.contents() == before


_INTERRUPTED = """
import os, signal, sys
from perfgate_server.storage import migrate, open_storage

class Interrupting:
    version, name = 0, "interrupting"

    @property
    def sql(self):
        print("in the middle", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

known = migrate.load(sys.argv[1])
more = migrate.Migration(
    len(known) + 1,
    "more",
    "CREATE TABLE more (x INTEGER);\\nALTER TABLE baselines ADD COLUMN more TEXT;\\n"
    "UPDATE baselines SET more = 'x';\\nDELETE FROM baseline_tags;\\n",
)
migrate.load = lambda _: [*known, more, Interrupting()]
open_storage(sys.argv[1], sys.argv[2], pool_size=1)
"""


def test_an_interrupted_upgrade_leaves_it_as_it_was(aged: Aged) -> None:
    """Killed with half of its migrations done: nothing of them is there, and the next start
    does them all."""
    before = aged.contents()
    killed = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, aged.backend, aged.location],
        env=environment(),
        stdout=subprocess.PIPE,
    )
    assert killed.stdout == b"in the middle\n" and killed.returncode == -signal.SIGKILL
    assert aged.contents() == before
    with closing(aged.opened()) as storage:
        assert exported(storage) == aged.export
