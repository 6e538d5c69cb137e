"""What only the SQLite backend promises: about its file, its processes, its schema."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    PATIENCE,
    ROOT,
    at_once,
    environment,
    not_installed,
    program,
    receipt,
    running,
    soon,
    stored,
)
from test_storage import promotion

from perfgate_server.records import trend_point
from perfgate_server.storage import (
    migrate,
    open_storage,
    sql_comparison,
    sqlite,
    sqlite_connection,
    sqlite_file,
    sqlite_wal,
)
from perfgate_server.storage.base import CannotOpen, Filters, Page, PastRun, Selector, Unavailable
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.sqlite import SqliteEngine
from perfgate_server.storage.sqlite_connection import unavailable


def opened(path: Path) -> SqlStorage:
    return SqlStorage(SqliteEngine(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "perfgate.db"


@pytest.fixture
def storage(path: Path):  # type: ignore[no-untyped-def]
    storage = opened(path)
    yield storage
    storage.close()


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_a_file_system_without_a_write_ahead_log_is_refused() -> None:
    db: Any = SimpleNamespace(execute=lambda _: SimpleNamespace(fetchone=lambda: ("delete",)))
    with pytest.raises(CannotOpen, match="allows no write-ahead log .delete."):
        sqlite_file._enter_wal(db)


@pytest.mark.parametrize("said", ["database is locked", "disk I/O error"])
def test_only_a_lock_is_waited_for_until_the_log_can_be_made(said: str) -> None:
    answers = iter([said])

    def execute(_: str) -> Any:
        for answer in answers:
            raise sqlite3.OperationalError(answer)
        return SimpleNamespace(fetchone=lambda: ("wal",))

    db: Any = SimpleNamespace(execute=execute)
    if "locked" in said:
        sqlite_file._enter_wal(db)
    else:
        with pytest.raises(sqlite3.OperationalError, match=said):
            sqlite_file._enter_wal(db)


def test_a_database_that_is_made_is_told_of_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong path, or a volume that is not mounted, would open every gate without a word."""
    with caplog.at_level("INFO", "perfgate_server"):
        for _ in range(2):
            opened(path).close()
        with closing(SqlStorage(SqliteEngine(None))) as in_memory:
            in_memory.ping(deadline=soon())
    assert caplog.messages == [f"a new, empty database was made: {path}"]


def test_the_file_is_in_wal_mode_and_commits_reach_the_disk(
    storage: SqlStorage, path: Path
) -> None:
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    with storage._engine.single(soon()) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_nothing_of_a_write_goes_to_the_temporary_folder(storage: SqlStorage) -> None:
    """As the journal of a large statement: where that is full, nothing could be uploaded."""
    for lent in (storage._engine.writing("p", "b", soon()), storage._engine.single(soon())):
        with lent as db:
            assert db.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY


def test_the_room_that_the_log_took_in_a_burst_is_given_back(storage: SqlStorage) -> None:
    with storage._engine.writing("p", "b", soon()) as db:
        assert db.execute("PRAGMA journal_size_limit").fetchone() == (64 * 2**20,)


def test_deleting_everything_leaves_nothing(storage: SqlStorage, path: Path) -> None:
    """No receipt, no summary and no tag outlives its record."""
    storage.create(*stored(tags=["a", "b"]), deadline=soon())
    storage.delete("p", "b", "v1", deadline=soon())
    for table in ("baselines", "receipts", "receipt_summaries", "baseline_tags"):
        assert query(path, f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_promotion_shares_its_sources_receipt(storage: SqlStorage, path: Path) -> None:
    storage.create(*stored(), deadline=soon())
    storage.promote(promotion(), deadline=soon())
    assert query(path, "SELECT count(*) FROM receipts") == [(1,)]


def test_places_are_reserved_behind_all_records_where_the_sequence_is_not(
    storage: SqlStorage, path: Path
) -> None:
    """As where the rows were copied, and the sequence was not."""
    for version in ("v1", "v2", "v3"):
        storage.create(*stored("b", version), deadline=soon())
    query(path, "DELETE FROM sqlite_sequence")
    assert storage.reserve("baselines", 2, deadline=soon()) == 4
    assert storage.create(*stored("b", "v4"), deadline=soon())[0].sequence == 6


def test_nothing_of_what_is_deleted_stays_in_the_file(storage: SqlStorage, path: Path) -> None:
    """Nor goes into a backup. Whether SQLite sees to it by itself depends on who built it."""
    with storage._engine.single(soon()) as db, storage._engine.writing("p", "b", soon()) as writer:
        for session in (db, writer):
            assert session.execute("PRAGMA secure_delete").fetchone() == (1,)
    storage.create(*stored("b", "v1", metadata={"a": "SECRET" * 50}), deadline=soon())
    storage.create(*stored("b", "v2"), deadline=soon())
    storage.delete("p", "b", "v1", deadline=soon())
    storage.close()
    assert b"SECRET" not in path.read_bytes()


def test_close_closes_every_connection(storage: SqlStorage) -> None:
    with storage._engine.single(soon()) as one, storage._engine.single(soon()) as other:
        pass
    storage.close()
    for connection in (one, other):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    storage.ping(deadline=soon())


# -- the schema


def test_migrations_are_recorded(storage: SqlStorage, path: Path) -> None:
    recorded = query(path, "SELECT version, name FROM perfgate_migrations ORDER BY version")
    assert recorded == [(each.version, each.name) for each in migrate.load("sqlite")]


def test_opening_again_changes_nothing(storage: SqlStorage, path: Path) -> None:
    storage.create(*stored(), deadline=soon())
    before = query(path, "SELECT * FROM perfgate_migrations")
    opened(path)
    assert query(path, "SELECT * FROM perfgate_migrations") == before
    assert storage.get("p", "b", "v1", receipt=True, deadline=soon()).receipt


def test_a_newer_schema_is_refused_and_left_alone(storage: SqlStorage, path: Path) -> None:
    query(path, "INSERT INTO perfgate_migrations VALUES (999, 'future', 'then')")
    copy = path.with_name("copy.db")
    for look in (opened, sqlite_file.check, lambda path: sqlite_file.backup(path, str(copy))):
        with pytest.raises(CannotOpen, match="newer perfgate-server"):
            look(path)
    assert not copy.exists()
    assert query(path, "SELECT max(version) FROM perfgate_migrations") == [(999,)]


def test_a_command_that_only_reads_does_not_upgrade(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript((ROOT / "tests/dumps/sqlite-0004.sql").read_text("utf-8"))
    with pytest.raises(CannotOpen, match="an earlier perfgate-server"):
        open_storage("sqlite", str(path), pool_size=1, create=False)
    assert query(path, "SELECT max(version) FROM perfgate_migrations") == [(4,)]


def test_a_failed_migration_leaves_the_old_schema_and_its_data(
    storage: SqlStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.create(*stored(), deadline=soon())
    known = migrate.load("sqlite")
    broken = migrate.Migration(
        len(known) + 1, "broken", "CREATE TABLE extra (x);\nINSERT INTO nowhere VALUES (1);\n"
    )
    monkeypatch.setattr(migrate, "load", lambda _: [*known, broken])
    with pytest.raises(CannotOpen):
        opened(path)
    monkeypatch.undo()
    assert query(path, "SELECT max(version) FROM perfgate_migrations") == [(len(known),)]
    assert query(path, "SELECT name FROM sqlite_schema WHERE name = 'extra'") == []
    opened(path)
    assert storage.get("p", "b", "v1", receipt=False, deadline=soon()).version == "v1"


def test_a_migration_must_end_with_a_statement() -> None:
    with pytest.raises(ValueError, match="complete statement"):
        list(sqlite_file.statements("CREATE TABLE a (x);\nCREATE TABLE b (x)"))


def test_no_migration_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose file was not installed: those after it build upon it."""
    for name in ("0001_first.sql", "0003_third.sql"):
        (tmp_path / name).write_text("SELECT 1;\n")
    monkeypatch.setattr(migrate, "_folder", lambda _: tmp_path)
    with pytest.raises(ValueError, match="of sqlite are not numbered 1, 2, 3"):
        migrate.load("sqlite")


_OPEN_AND_WRITE = """
import sys
from support import soon, stored
from perfgate_server.storage import open_storage
input("ready")
storage = open_storage("sqlite", sys.argv[1], pool_size=1)
storage.create(*stored("b", sys.argv[2]), deadline=soon())
storage.close()
"""


def test_an_sqlite_without_what_is_asked_of_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some distributions' Python has one; uploads would be 503, and /health 200."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    for backend, location in (("sqlite", str(tmp_path / "perfgate.db")), ("memory", None)):
        with pytest.raises(CannotOpen, match="3.35.0 or newer"):
            open_storage(backend, location, pool_size=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 0))
    open_storage("memory", None, pool_size=1).close()


def test_eight_processes_may_open_a_fresh_file_at_once(path: Path) -> None:
    """All start, the schema is made once, and what each of them writes is there."""
    assert at_once(_OPEN_AND_WRITE, [[path, f"v{number}"] for number in range(8)]) == [0] * 8
    applied = [(migration.version,) for migration in migrate.load("sqlite")]
    assert query(path, "SELECT version FROM perfgate_migrations") == applied
    assert query(path, "SELECT count(*) FROM baselines") == [(8,)]


def test_a_record_without_a_summary_is_found_all_the_same(storage: SqlStorage, path: Path) -> None:
    """An older server that still runs on the migrated file keeps such; they must not vanish."""
    storage.create(*stored(), deadline=soon())
    query(path, "DELETE FROM receipt_summaries")
    (found,) = storage.recent("p", "b", 1, git_ref=None, deadline=soon())
    assert (found.version, found.summary) == ("v1", None)
    assert trend_point(found, "wall_ms") is None
    with storage._engine.reading(soon()) as db:
        args = ([Selector("latest")], ["h"])
        assert sql_comparison.compare(db, "p", "b", *args).baseline == found
        # Nor is it one of the runs that tell what is expected: nobody knows its numbers.
        past = sql_comparison.past(db, found, None, [], 9, lambda kept: PastRun(kept, True))
        assert past == []


# -- files that are not what they should be


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a database, whatever its name " * 100)
    names = ("foreign", "view", "alike", "half", "worded")
    foreign, view, alike, half, worded = (tmp_path / name for name in names)
    query(foreign, "CREATE TABLE theirs (x)")
    query(view, "CREATE VIEW theirs AS SELECT 1")
    query(alike, "CREATE TABLE baselines (x)")
    for path in (alike, half, worded):
        query(path, "CREATE TABLE perfgate_migrations (version)")
    query(half, "INSERT INTO perfgate_migrations VALUES (1)")
    query(worded, "CREATE TABLE baselines (x)")
    query(worded, "INSERT INTO perfgate_migrations VALUES ('one')")
    for path, reason in (
        (garbage, "not a database"),
        (foreign, "another program"),
        (view, "another program"),
        (alike, "another program"),
        (half, "another program"),
        (worded, "another program"),
        (tmp_path, "directory"),
        (tmp_path / "nowhere" / "perfgate.db", "nowhere"),
    ):
        with pytest.raises(CannotOpen, match=reason) as error:
            opened(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert query(foreign, "SELECT name FROM sqlite_schema") == [("theirs",)]


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("left", ["-wal", "-shm"])
def test_what_is_left_of_a_database_is_told_and_not_built_upon(
    path: Path, left: str, is_empty: bool
) -> None:
    """Also where a symbolic link leads there: SQLite looks beside what it leads to."""
    if is_empty:
        path.touch()
    link = path.with_name("link.db")
    link.symlink_to(path)
    Path(f"{path}{left}").touch()
    for name in (path, link):
        with pytest.raises(CannotOpen, match=f"is gone or empty, but {path}{left} of it is there"):
            opened(name)
        assert path.exists() == is_empty


@pytest.mark.parametrize(
    ("odd", "said"), [(".", "it is a directory"), (os.devnull, "there is no such file")]
)
def test_who_only_looks_takes_what_is_no_file_for_none(tmp_path: Path, odd: str, said: str) -> None:
    with pytest.raises(CannotOpen, match=said):
        sqlite_file.check(tmp_path / odd)


def test_an_empty_file_is_a_fresh_database(path: Path) -> None:
    path.touch()
    opened(path)
    assert query(path, "SELECT count(*) FROM baselines") == [(0,)]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may enter and write to; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@contextmanager
def not_root() -> Iterator[None]:
    """Be somebody else, as root may do anything. The program itself may lie where only root may
    go: what it still reads of it is read before."""
    loaded, user = migrate.load("sqlite"), os.geteuid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "load", lambda _: loaded)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)


def test_a_current_file_that_may_only_be_read_is_refused(shared: Path) -> None:
    """SQLite opens it without a word; every upload would fail later."""
    database = shared / "perfgate.db"
    opened(database)
    database.chmod(0o444)
    with not_root(), pytest.raises(CannotOpen, match="readonly .*; this user must"):
        opened(database)


def test_who_may_only_read_leaves_nothing_that_keeps_the_owner_out(shared: Path) -> None:
    """SQLite would make a log of the reader's own, to which the owner may not write."""
    path = shared / "perfgate.db"
    opened(path)
    path.chmod(0o444)
    with not_root():
        for look in (sqlite_file.check, lambda path: sqlite_file.backup(path, f"{shared}/b")):
            with pytest.raises(CannotOpen, match="may only be read here, .* open a copy"):
                look(path)
    assert os.listdir(shared) == ["perfgate.db"]
    half = Path(f"{path}-wal")
    half.touch()
    with not_root(), pytest.raises(CannotOpen, match="may only be read here"):
        sqlite_file.check(path)
    assert not Path(f"{path}-shm").exists()
    half.unlink()
    # What has no log, as a backup, needs none to be read, and beside a log none is made.
    path.chmod(0o644)
    sqlite_file.backup(path, f"{shared}/copy")
    (shared / "copy").chmod(0o444)
    with closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        for log in sqlite_wal.wal_paths(path):
            Path(log).chmod(0o644)
        path.chmod(0o444)
        with not_root():
            assert sqlite_file.check(path) is sqlite_file.check(shared / "copy") is None


def test_a_log_to_which_the_user_may_not_write_is_named(shared: Path) -> None:
    if os.geteuid() != 0:  # SQLite lets the owner write to it
        not_installed("root")
    path = shared / "perfgate.db"
    opened(path)
    path.chmod(0o666)
    for log in sqlite_wal.wal_paths(path):
        Path(log).touch(0o444)
    with not_root(), pytest.raises(CannotOpen, match="write to .*db-wal and .*db-shm too"):
        opened(path)


@pytest.mark.parametrize("look", [opened, sqlite_file.check])
def test_a_database_in_a_folder_that_may_not_be_entered_is_not_called_missing(
    path: Path, look: Callable[[Path], object]
) -> None:
    opened(path)
    path.parent.chmod(0)
    try:
        with not_root(), pytest.raises(CannotOpen, match="Permission denied"):
            look(path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("name", ["with space?and#marks%20.db", "naïve 🚀.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    opened(tmp_path / name)
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_was_removed_is_an_error_and_not_an_empty_store(
    storage: SqlStorage, path: Path, replaced: bool
) -> None:
    storage.create(*stored(), deadline=soon())
    storage.close()
    path.rename(path.with_suffix(".away"))
    if replaced:
        opened(path)
    for call in (
        lambda: storage.ping(deadline=soon()),
        lambda: storage.create(*stored("b", "v2"), deadline=soon()),
        lambda: storage.list("p", Filters(), Page(limit=1), deadline=soon()),
    ):
        with pytest.raises(Unavailable):
            call()
    assert path.exists() == replaced
    path.with_suffix(".away").replace(path)
    assert storage.latest("p", "b", receipt=False, deadline=soon()).version == "v1"


@pytest.mark.parametrize("first", ["ping", "create"])
def test_a_removed_database_is_noticed_at_once_by_health_and_writers_and_then_by_all(
    storage: SqlStorage, path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECK_LASTS", 0.0)
    calls: dict[str, Callable[[], Any]] = {
        "ping": lambda: storage.ping(deadline=soon()),
        "create": lambda: storage.create(*stored("b", "v2"), deadline=soon()),
        "latest": lambda: storage.latest("p", "b", receipt=True, deadline=soon()),
    }
    storage.create(*stored(), deadline=soon())
    calls["latest"]()
    path.unlink()
    with pytest.raises(Unavailable):
        calls[first]()
    for name in ("latest", "ping", "create", "latest"):
        with pytest.raises(Unavailable):
            calls[name]()


def test_a_database_whose_folder_is_none_any_more_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with closing(opened(folder / "perfgate.db")) as storage:
        folder.rename(tmp_path / "away")
        folder.touch()
        with pytest.raises(Unavailable, match="is gone"):
            storage.ping(deadline=soon())


def test_health_looks_each_time_whether_the_database_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECK_LASTS", 600.0)
    with closing(SqlStorage(SqliteEngine(path, threads=1))) as storage:
        storage.ping(deadline=soon())
        path.unlink()
        with pytest.raises(Unavailable, match="is gone"):
            storage.ping(deadline=soon())


@pytest.mark.parametrize("in_memory", [False, True])
def test_after_an_error_a_file_is_opened_anew_and_memory_is_kept(
    path: Path, in_memory: bool
) -> None:
    """There the connection is the database."""
    engine = SqliteEngine(None if in_memory else path, threads=1)
    with closing(SqlStorage(engine)) as storage:
        storage.create(*stored(), deadline=soon())
        with pytest.raises(Unavailable, match="syntax error"), engine.single(soon()) as first:
            first.execute("no SQL")
        assert storage.latest("p", "b", receipt=False, deadline=soon()).version == "v1"
        if not in_memory:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                first.execute("SELECT 1")


def test_what_is_no_database_is_not_backed_up(tmp_path: Path) -> None:
    source, target = tmp_path / "garbage", tmp_path / "copy.db"
    source.write_text("not a database" * 1000)
    with pytest.raises(CannotOpen, match="cannot back up .* is not a database"):
        sqlite_file.backup(source, str(target))
    assert not target.exists()


def test_an_index_that_does_not_fit_its_table_is_found(storage: SqlStorage, path: Path) -> None:
    """A list walks one, and would lack what it lacks."""
    storage.create(*stored(), deadline=soon())
    storage.close()
    assert sqlite_file.check(path) is None
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            """UPDATE sqlite_schema SET sql = replace(sql, ', version)', ', created_by)')
               WHERE name = 'baselines_by_version'"""
        )
    assert "baselines_by_version" in (sqlite_file.check(path) or "")


def test_a_removed_database_is_noticed_by_reads_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a connection that is open."""
    monkeypatch.setattr(sqlite, "_CHECK_LASTS", 0.0)
    with closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        assert storage.latest("p", "b", receipt=True, deadline=soon())
        path.unlink()
        with pytest.raises(Unavailable, match="is gone"):
            storage.latest("p", "b", receipt=True, deadline=soon())


def test_where_sqlite_ended_a_transaction_itself_its_own_reason_is_told() -> None:
    """And not that there is nothing to undo."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            with sqlite_connection.transaction(db, "BEGIN"):
                db.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_log_in_the_place_of_the_one_that_was_opened_is_not_written_to(
    path: Path, suffix: str
) -> None:
    """As where a backup of it was put there: what is written to either may be lost."""
    with closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        shutil.copy(f"{path}{suffix}", f"{path}.copy")
        os.replace(f"{path}.copy", f"{path}{suffix}")
        with pytest.raises(Unavailable, match="the log of .* is gone"):
            storage.create(*stored("b", "v2"), deadline=soon())


_IDLE = """
import sys
from support import soon, stored
from perfgate_server.storage import open_storage
from perfgate_server.storage.base import Unavailable
storage = open_storage("sqlite", sys.argv[1], pool_size=1)
input("ready")
for write in (False, True):
    try:
        if write:
            storage.create(*stored("b", "v2"), deadline=soon())
        else:
            storage.ping(deadline=soon())
    except Unavailable as error:
        assert "-wal, -shm) is gone, or another program" in str(error)
    else:
        sys.exit("it is used")
"""


@pytest.mark.parametrize("name", ["perfgate.db", "link.db"])
def test_no_second_log_is_made_while_the_first_is_in_use(path: Path, name: str) -> None:
    """Of the two only one would be kept, and all that was acknowledged in the other lost: nor by a
    process that was idle so far, or starts, or only looks."""
    path.with_name("link.db").symlink_to(path)
    path = path.with_name(name)
    with closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        with running(_IDLE, path) as idle:
            idle.pause()
            for suffix in ("-wal", "-shm"):
                Path(f"{path.resolve()}{suffix}").unlink()
            idle.go_on()
            assert idle.wait(PATIENCE) == 0
        with pytest.raises(Unavailable, match="-wal, -shm. is gone"):
            storage.create(*stored("b", "v3"), deadline=soon())
        commands = [
            subprocess.Popen(
                [program(), *command, "--database-url", str(path)],
                cwd=path.parent,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            for command in (["check"], ["export"], ["backup", "copy.db"], ["import", os.devnull])
        ]
        for command in commands:
            _, said = command.communicate()
            assert command.returncode == 2 and b"-wal, -shm) is gone" in said, command.args
    with closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        assert storage.latest("p", "b", receipt=True, deadline=soon()).version == "v1"


_ALONE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA locking_mode = EXCLUSIVE")
db.execute("BEGIN EXCLUSIVE")
input("ready")
"""


def test_threads_that_meet_at_a_locked_database_wait_until_their_deadlines(path: Path) -> None:
    """And not one behind the other: the last, a look at its health, waited for all."""
    with (
        closing(open_storage("sqlite", str(path), pool_size=9)) as storage,
        running(_ALONE, path) as other,
        ThreadPoolExecutor(9) as threads,
    ):
        other.pause()
        began = time.monotonic()

        def wait(number: int) -> float:
            with pytest.raises(Unavailable, match="has the database for itself|is opening the"):
                storage.ping(deadline=began + 0.5 + number / 100)
            return time.monotonic() - began

        assert max(threads.map(wait, range(9))) < 2
        other.go_on()
        assert other.wait(PATIENCE) == 0
        storage.ping(deadline=soon())


_VISITOR = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db:
    db.execute("SELECT count(*) FROM baselines").fetchone()
db.close()
"""


def test_a_process_may_open_a_database_twice(path: Path) -> None:
    """The locks of the first storage stay: without them the next program that closes the database
    would take itself for the last, and remove its log."""
    with closing(open_storage("sqlite", str(path), pool_size=1)) as first:
        first.create(*stored(), deadline=soon())
        with closing(open_storage("sqlite", str(path), pool_size=1)) as second:
            subprocess.run([program("python"), "-c", _VISITOR, path], check=True, timeout=PATIENCE)
            first.create(*stored("b", "v2"), deadline=soon())
            assert second.latest("p", "b", receipt=False, deadline=soon()).version == "v2"


_READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT * FROM sqlite_schema").fetchall()
input("ready")
"""


def test_several_may_look_at_a_copy_at_once(path: Path) -> None:
    """It has no log, and needs none."""
    opened(path).close()
    copy = path.with_name("copy.db")
    sqlite_file.backup(path, str(copy))
    with running(_READER, copy) as other:
        other.pause()
        assert sqlite_file.check(copy) is None


def test_who_looks_at_a_copy_waits_for_who_writes_to_it(path: Path) -> None:
    opened(path).close()
    copy = path.with_name("copy.db")
    sqlite_file.backup(path, str(copy))
    with running(_ALONE, copy) as other, ThreadPoolExecutor(1) as threads:
        other.pause()
        looking = threads.submit(sqlite_file.check, copy)
        wait([looking], 0.2)
        assert not looking.done()
        other.go_on()
        assert looking.result(PATIENCE) is None


def test_a_log_that_is_still_to_be_made_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a second, and not beyond the deadline: another process may just be opening."""
    opened(path).close()
    looks = iter([True, True, False])
    monkeypatch.setattr(sqlite_wal, "_is_open_with_a_wal", lambda _: next(looks))
    assert not sqlite_wal.has_lost_its_wal(path)
    monkeypatch.setattr(sqlite_wal, "_is_open_with_a_wal", lambda _: True)
    began = time.monotonic()
    assert sqlite_wal.has_lost_its_wal(path)
    assert time.monotonic() - began >= 1.0
    monkeypatch.setattr(sqlite_wal, "_OPENING", PATIENCE)
    began = time.monotonic()
    assert sqlite_wal.has_lost_its_wal(path, soon(0.05))
    assert time.monotonic() - began < PATIENCE / 4


def test_a_file_that_is_refused_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    query(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(CannotOpen):
        opened(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 300, "\udcff.db"])
def test_an_odd_path_is_opened_or_refused_in_words(tmp_path: Path, name: str) -> None:
    try:
        opened(tmp_path / name)
    except CannotOpen as error:
        assert "too long" in str(error)
    else:
        assert (tmp_path / name).is_file()


# -- locks, deadlines, full disks


def test_a_read_is_given_up_at_its_deadline(path: Path) -> None:
    count = """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000)
        SELECT count(*) FROM n"""
    with closing(SqliteEngine(path)) as engine:
        with pytest.raises(Unavailable), engine.single(soon(0.2)) as db:
            db.execute(count).fetchone()
        with engine.single(soon()) as db:
            assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_lock_held_by_another_program_is_waited_for_until_the_deadline(
    storage: SqlStorage, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="locked") as raised:
        storage.create(*stored(), deadline=soon(0.5))
    assert raised.value.reason == "busy"
    assert 0.3 < time.monotonic() - began < 5
    timer = threading.Timer(0.2, other.rollback)
    timer.start()
    assert storage.create(*stored(), deadline=soon())[1]
    timer.join()
    other.close()


def test_reading_does_not_wait_for_a_writer(storage: SqlStorage, path: Path) -> None:
    storage.create(*stored(), deadline=soon())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert storage.latest("p", "b", receipt=True, deadline=soon(1)).receipt
    other.close()


def test_a_long_query_is_given_up_at_the_deadline(storage: SqlStorage) -> None:
    """And the connection is good for the next one."""
    with pytest.raises(Unavailable, match="interrupted") as raised:
        with storage._engine.single(soon(0.1)) as db:
            db.execute(
                """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT count(*) FROM n"""
            )
    assert raised.value.reason == "busy"
    storage.ping(deadline=soon())


def test_a_full_disk_is_unavailable_and_nothing_is_half_written(
    storage: SqlStorage, path: Path
) -> None:
    storage.create(*stored(), deadline=soon())
    with storage._engine.writing("p", "b", soon()) as db:  # the limit is the connection's own
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    huge = {"wall_ms": 1, "exit_code": 0, "stdout": "x" * 100_000}
    big = stored("b", "v2", value=receipt(samples=[huge]))
    with pytest.raises(Unavailable, match="full") as raised:
        storage.create(*big, deadline=soon())
    assert raised.value.reason == "full"
    assert storage.latest("p", "b", receipt=True, deadline=soon()).version == "v1"
    # The connection was given up with its limit: there is room now.
    assert storage.create(*big, deadline=soon())[1]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_folder_in_which_no_file_may_be_made_is_told(shared: Path) -> None:
    """As a volume that is mounted as root's."""
    shared.chmod(0o555)
    with not_root(), pytest.raises(CannotOpen, match="unable to open .*; this user must be"):
        opened(shared / "perfgate.db")


def test_a_read_only_file_is_refused_at_start(shared: Path) -> None:
    path = shared / "perfgate.db"
    opened(path)
    path.chmod(0o444)
    shared.chmod(0o555)
    try:
        with (
            not_root(),
            pytest.raises(CannotOpen, match="(readonly|unable to open) .*; this user must"),
        ):
            opened(path)
    finally:
        shared.chmod(0o755)


def test_a_write_waits_for_another_process_until_its_deadline_and_no_longer(path: Path) -> None:
    """However patient the writes before it were."""
    with closing(SqliteEngine(path)) as engine:
        with engine.writing("", "", soon()) as db:
            db.execute("CREATE TABLE t (a)")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(Unavailable, match="locked"), engine.writing("", "", soon(0.1)):
                pass
            assert time.monotonic() - began < PATIENCE / 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_write_in_turn(path: Path) -> None:
    """However many queue in one of them, after a commit for several the other finds a gap."""
    forked = multiprocessing.get_context("fork")
    with closing(SqliteEngine(path, threads=4, shared=True)) as engine:
        with engine.writing("", "", soon()) as db:
            db.execute("CREATE TABLE t (pid INTEGER)")
        engine.close()  # a connection must not be carried across a fork
        ready = forked.Barrier(2)

        def write_on() -> None:
            for _ in range(50):
                with engine.writing("", "", soon()) as db:
                    db.execute("INSERT INTO t VALUES (?)", (os.getpid(),))
                    time.sleep(0.001)  # so that the others queue, however fast the disk is

        def work() -> None:
            ready.wait(PATIENCE)
            threads = [threading.Thread(target=write_on) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        processes = [forked.Process(target=work, daemon=True) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0
    pids = query(path, "SELECT pid FROM t ORDER BY rowid")
    assert len(pids) == 400
    # A commit is for four at most, so there are a hundred turns; without gaps there are some 15.
    assert len(list(itertools.groupby(pids))) > 50


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BUSY", "busy"),
        ("BUSY_SNAPSHOT", "busy"),
        ("LOCKED", "busy"),
        ("INTERRUPT", "busy"),
        ("FULL", "full"),
        ("IOERR_SHMSIZE", "full"),
        ("READONLY", "read_only"),
        ("READONLY_DIRECTORY", "read_only"),
        ("IOERR_WRITE", "down"),
        ("CORRUPT", "down"),
        (None, "down"),
    ],
)
def test_the_reason_is_what_sqlites_code_says(name: str | None, reason: str) -> None:
    error = sqlite3.OperationalError("x")
    if name is not None:
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    told = unavailable(error)
    assert (told.reason, str(told)) == (reason, "SQLite: x")


def test_who_waits_for_a_connection_until_the_deadline_is_told_that_it_is_busy(path: Path) -> None:
    with closing(SqliteEngine(path, threads=1)) as engine, engine.single(soon()):
        with pytest.raises(Unavailable, match="in use") as raised, engine.single(soon(0.05)):
            pass
    assert raised.value.reason == "busy"
