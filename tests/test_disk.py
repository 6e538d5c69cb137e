"""Disks that are full and databases that are not what they were: a clear error, and never a
silent empty store."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from postgres_server import database_of, own_postgres
from support import (
    ROOT,
    Server,
    environment,
    gunicorn_server,
    perfgate_server,
    program,
    receipt,
    serving,
    soon,
    stored,
    wait_for,
)

from perfgate_server.storage import open_storage, sqlite_file
from perfgate_server.storage.base import CannotOpen, Unavailable

#: A receipt of 40 kB that no database can compress.
BIG = receipt() | {"x-padding": random.Random(1).randbytes(20_000).hex()}


def sqlite_server(folder: Path, *more: str) -> Any:
    arguments = ["--storage-type", "sqlite", "--database-url", str(folder / "perfgate.db")]
    return serving(perfgate_server(*arguments, "--workers", "2", *more), folder.parent)


def found(server: Server, version: str, benchmark: str = "b") -> int:
    """Return the status of reading a version; 0 if it is not what was uploaded."""
    path = f"/projects/p/baselines/{benchmark}/versions/{version}?receipt=only"
    status, _, body = server.request("GET", path)
    return status if status != 200 or json.loads(body) == BIG else 0


def health(server: Server) -> int:
    return server.request("GET", "/health", role=None)[0]


# -- full


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of a few MiB."""
    with tempfile.TemporaryDirectory(prefix="perfgate-disk-") as parent:
        Path(parent).chmod(0o755)  # PostgreSQL is another user
        folder = Path(parent, "disk")
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill_and_free(server: Server, free: Callable[[], None]) -> None:
    """Upload from all sides until the disk is full, and on; then make room."""
    statuses: dict[str, int] = {}

    def upload(thread: int) -> None:
        for turn in range(25):
            version = f"v{thread}-{turn}"
            statuses[version] = server.put("b", version, BIG)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, range(4)))
    assert set(statuses.values()) == {201, 503}
    kept = [version for version, status in statuses.items() if status == 201]
    assert {found(server, version) for version in kept} == {200}
    lost = next(version for version, status in statuses.items() if status == 503)
    assert found(server, lost) == 404
    path = f"/projects/p/baselines/b/versions/{lost}"
    status, _, body = server.request("PUT", path, json.dumps(BIG))
    assert (status, json.loads(body)["error"]["details"]) == (503, {"reason": "full"})
    assert health(server) == 200
    free()
    wait_for(lambda: server.put("b", lost, BIG) == 201, "an upload")
    assert {found(server, version) for version in (*kept, lost)} == {200}
    assert "Traceback" not in server.log


def test_sqlite_on_a_full_disk(small_disk: Path) -> None:
    """503, what was acknowledged is readable, and writes go on once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 2**20)
    with sqlite_server(small_disk) as server:
        fill_and_free(server, ballast.unlink)
        with contextlib.closing(sqlite3.connect(small_disk / "perfgate.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_backup_takes_no_more_room_than_it_has(tmp_path: Path, small_disk: Path) -> None:
    """It needs as much as the database; with less nothing is left, nor a file of SQLite's own."""
    path, copy = tmp_path / "perfgate.db", small_disk / "copy.db"
    with contextlib.closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        for number in range(20):
            storage.create(*stored(version=f"v{number}", value=BIG), deadline=soon())
    size = path.stat().st_size
    for room in (size // 2, size - 4096, size):
        free = shutil.disk_usage(small_disk).free
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * (free - room))
        if room < size:
            with pytest.raises(CannotOpen, match="cannot back up .* full"):
                sqlite_file.backup(path, str(copy))
            assert [*small_disk.iterdir()] == [ballast]
        else:
            sqlite_file.backup(path, str(copy))
            assert {*small_disk.iterdir()} == {ballast, copy}
        ballast.unlink()
    assert sqlite_file.check(copy) is None


def test_postgres_on_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    tables = small_disk / "tables"
    tables.mkdir()
    with own_postgres() as postgres:
        if os.geteuid() == 0:
            shutil.chown(tables, "postgres")
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
        with postgres.database() as url:
            name = database_of(url)
            arguments = perfgate_server("--storage-type", "postgres", "--database-url", url)
            with serving([*arguments, "--timeout", "5"], small_disk.parent) as server:
                for table in ("receipts", "baselines"):
                    postgres.execute(f"ALTER TABLE {table} SET TABLESPACE small", name)
                # A first read makes a table's visibility map since PostgreSQL 19: here, not later.
                assert server.put("b", "v0", BIG) == 201
                postgres.execute("VACUUM", name)
                ballast.write_bytes(b"x" * 2**20)
                fill_and_free(server, ballast.unlink)
        postgres.execute("DROP TABLESPACE small")


#: A mount namespace in which no file can be made in any folder for temporary ones.
READ_ONLY = """for folder in /tmp /var/tmp; do
    mount --bind $folder $folder && mount -o remount,ro,bind $folder || exit 77
done
cd /tmp && exec "$@"
"""
UPLOADS = """import sys
from support import soon, stored
from perfgate_server.storage import open_storage
storage = open_storage("sqlite", sys.argv[1], pool_size=1)
for number in range(1500):
    storage.create(*stored(f"b{number % 30}", f"v{number}"), deadline=soon())
"""


def test_uploads_need_no_room_for_temporary_files() -> None:
    """A container may have none, and SQLite writes there what a statement may have to undo."""
    variables = environment(PYTHONPATH=str(ROOT / "tests"), SQLITE_TMPDIR="/tmp", TMPDIR="/tmp")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        uploads = [program("python"), "-c", UPLOADS, f"{folder}/perfgate.db"]
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", *uploads],
            capture_output=True,
            text=True,
            env=variables,
        )
    if result.returncode in (1, 77) and "Traceback" not in result.stderr:
        pytest.skip("needs the right to mount")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_full_disk_at_start_is_said(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (2**22 - 2**13))
    with pytest.raises(CannotOpen, match="full|disk I/O error"):
        open_storage("sqlite", str(small_disk / "perfgate.db"), pool_size=1)


# -- damaged, removed, locked


def spoil(path: Path, start: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"garbage!" * ((path.stat().st_size - start) // 8))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "garbage": spoil,
    "truncated": lambda path: os.truncate(path, 0),
    "log removed": lambda path: path.with_name(path.name + "-wal").unlink(),
    "locks removed": lambda path: path.with_name(path.name + "-shm").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_database_that_is_damaged_while_it_is_served(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Everything is 503 from then on, health too; nothing is called missing that was there."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "perfgate.db"
    with sqlite_server(folder, "--workers", "1") as server:
        for number in range(8):
            assert server.put("b", f"v{number}", BIG) == 201
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        damage(path)
        assert {found(server, f"v{number}") for number in range(8)} == {503}
        assert health(server) == 503
        assert server.put("b", "v9") == 503
        assert server.request("GET", "/projects/p/baselines")[0] == 503
        assert "Traceback" not in server.log


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_removed_log_is_not_lost_if_the_server_is_stopped(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with sqlite_server(folder, "--workers", "1") as server:
        assert server.put("b", "v1", BIG) == 201
        (folder / f"perfgate.db{suffix}").unlink()
        assert server.put("b", "v2", BIG) == 503
        assert server.stop() == 0
    with sqlite_server(folder, "--workers", "1") as server:
        assert found(server, "v1") == 200


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_page_is_no_empty_answer(tmp_path: Path, cut: bool) -> None:
    """Where the damage lies, requests are 503; elsewhere they are answered; `check` tells."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "perfgate.db"
    with sqlite_server(folder) as server:
        for number in range(40):
            assert server.put(f"b{number % 4}", f"v{number}", BIG) == 201
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        half = path.stat().st_size // 2
        if cut:
            os.truncate(path, half)
        else:
            spoil(path, half)
        statuses = {found(server, f"v{n}", f"b{n % 4}") for n in range(40)}
        assert 503 in statuses and statuses <= {200, 503}
        server.stop()
    check = subprocess.run(
        [program(), "check", "--database-url", path], capture_output=True, text=True
    )
    assert check.returncode in (1, 2), check.stdout
    assert "integrity: ok" not in check.stdout


@pytest.mark.parametrize("emptied", [False, True])
def test_a_log_without_its_database_is_refused(tmp_path: Path, emptied: bool) -> None:
    """SQLite would throw away what is only in the log, and begin with an empty database."""
    path = tmp_path / "perfgate.db"
    storage = open_storage("sqlite", str(path), pool_size=1)
    storage.create(*stored(), deadline=soon())
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    storage.close()
    main = copy.read_bytes()
    copy.unlink()
    if emptied:
        copy.touch()
    with pytest.raises(CannotOpen, match="gone or empty, but .*copy.db-wal") as error:
        open_storage("sqlite", str(copy), pool_size=1)
    assert "\n" not in str(error.value)
    copy.write_bytes(main)
    storage = open_storage("sqlite", str(copy), pool_size=1)
    assert storage.latest("p", "b", receipt=True, deadline=soon()).receipt
    storage.close()


def test_a_database_that_another_program_has_locked_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "perfgate.db"
    open_storage("sqlite", str(path), pool_size=1).close()
    monkeypatch.setattr(sqlite_file, "OPEN_TIMEOUT", 0.2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CannotOpen, match="locked"):
            open_storage("sqlite", str(path), pool_size=1)


def test_a_read_of_a_database_that_is_locked_whole_ends_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "perfgate.db"
    storage = open_storage("sqlite", str(path), pool_size=1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="locked"):
            storage.ping(deadline=soon(0.3))
        assert time.monotonic() - began < 5
    storage.ping(deadline=soon())
    storage.close()


@pytest.mark.parametrize(("start", "count"), [(sqlite_server, 4), (gunicorn_server, 3)])
def test_writers_that_wait_for_a_lock_leave_a_thread_to_others(
    tmp_path: Path, start: Callable[..., Any], count: int
) -> None:
    """Reads and health are answered, however many uploads wait; those are 503 or, in the end,
    done."""
    folder = tmp_path / "data"
    folder.mkdir()
    with start(folder, "--workers", "1", "--threads", str(count)) as server:
        assert server.put("b", "v", BIG) == 201
        lock = sqlite3.connect(folder / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: statuses.append(server.put("b", f"v{n}")))
            for n in range(12)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: statuses, "the first refusal")
        began = time.monotonic()
        assert health(server) == 200 and found(server, "v") == 200
        assert time.monotonic() - began < 5
        lock.rollback()
        lock.close()
        for thread in threads:
            thread.join()
        assert set(statuses) == {201, 503} and statuses.count(201) >= count - 1
