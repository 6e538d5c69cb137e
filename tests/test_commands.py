"""The commands on a storage, as processes: export, import, backup and check."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import click
import pytest
from postgres_server import Postgres, database_of
from support import KEYS, PATIENCE, environment, program, receipt, soon, sqlite_server, wait_for
from test_storage import keep, promotion
from test_transfer import exported, fill

from perfgate_server import cli, transfer
from perfgate_server.files import atomic_write
from perfgate_server.storage import Storage, open_storage
from perfgate_server.storage.base import Unavailable
from perfgate_server.storage.sql import SqlStorage


def run(*arguments: Any, folder: Path, text: bytes | None = None, **variables: str) -> Any:
    return subprocess.run(
        [program(), *arguments],
        capture_output=True,
        input=text,
        cwd=folder,
        timeout=60,
        env=environment(**variables),
    )


def in_shell(script: str, *arguments: Any, folder: Path, **variables: str) -> Any:
    """Run a script of the shell, to which the program and these are its arguments."""
    return subprocess.run(
        ["sh", "-c", script, "sh", program(), *arguments],
        capture_output=True,
        cwd=folder,
        timeout=60,
        env=environment(**variables),
    )


def sqlite_file(folder: Path, name: str = "perfgate.db") -> Storage:
    return open_storage("sqlite", str(folder / name), pool_size=1)


def test_from_sqlite_to_postgres_and_back(postgres: Postgres, tmp_path: Path) -> None:
    """By the commands, as the README tells it."""
    source = sqlite_file(tmp_path)
    fill(source)
    text = exported(source)
    source.close()
    with postgres.database() as url:
        there = ["--storage-type", "postgres", "--database-url", url]
        assert run("export", "all.ndjson", folder=tmp_path).returncode == 0
        result = run("import", *there, "all.ndjson", folder=tmp_path)
        assert (result.returncode, result.stdout) == (0, b"")
        assert b"7 kept, 0 present, 0 differs, 0 refused, 0 not valid" in result.stderr
        result = run(*there, "export", folder=tmp_path)  # options may stand before, too
        assert result.stdout == text and b"4 baselines and 3 verdicts exported" in result.stderr
        back = run("import", "--database-url", "back.db", "-", folder=tmp_path, text=result.stdout)
        assert back.returncode == 0
        checked = run("check", *there, folder=tmp_path)
        assert checked.returncode == 0 and b"hunter2" not in checked.stdout + checked.stderr
        assert b"integrity" not in checked.stdout  # which only PostgreSQL's own tools look into
    again = sqlite_file(tmp_path, "back.db")
    assert exported(again) == text
    again.close()


def test_the_exit_status_of_an_import_tells(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path)
    fill(source)
    text = exported(source)
    source.close()
    for spoiled, status in ((text, 0), (text + b"x\n", 1), (text.replace(b"main", b"dev"), 1)):
        assert run("import", "-", folder=tmp_path, text=spoiled).returncode == status


def test_what_an_import_says_of_a_line_steers_no_terminal(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path)
    fill(source)
    verdict = exported(source).splitlines(keepends=True)[-1]
    source.close()
    evil = json.loads(verdict) | {"id": "\x1b[2J\r" + KEYS["admin"], "run_id": ""}
    result = run("import", "-", folder=tmp_path, text=json.dumps(evil).encode())
    assert result.returncode == 1 and b"line 1: " in result.stderr
    twice = verdict + json.dumps(evil | {"run_id": "r"}).encode() + b"\n"
    twice += json.dumps(evil | {"run_id": "other"}).encode()
    result = run("import", "-", folder=tmp_path, text=twice)
    assert result.returncode == 1 and b"line 3: " in result.stderr
    assert b"\x1b" not in result.stderr and b"\\x1b[2J" in result.stderr
    assert KEYS["admin"].encode() not in result.stderr


def test_an_import_names_a_record_as_it_is_called(tmp_path: Path) -> None:
    """Also where its name looks like a URL with a password."""
    source = sqlite_file(tmp_path)
    keep(source, "tests/io.py:read@size=4k/password=on", "v1")
    text = exported(source)
    source.close()
    result = run("import", "-", folder=tmp_path, text=text.replace(b'"tags":[]', b'"tags":["x"]'))
    assert result.returncode == 1
    assert b": tests/io.py:read@size=4k/password=on v1: differs" in result.stderr


def test_what_is_no_export_is_told_at_once(tmp_path: Path) -> None:
    sqlite_file(tmp_path, "source.db").close()
    (tmp_path / "all.ndjson.gz").write_bytes(gzip.compress(b"{}"))
    for name, said in (("source.db", b"an SQLite database"), ("all.ndjson.gz", b"compressed")):
        for file, text in ((name, None), ("-", (tmp_path / name).read_bytes())):
            result = run("import", file, folder=tmp_path, text=text)
            assert result.returncode == 2 and said in result.stderr
    assert not (tmp_path / "perfgate.db").exists()


def test_the_switches_of_an_import_do_what_they_say(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path, "source.db")
    for version in ("v1", "v2"):
        keep(source, "b", version)
    first, second = exported(source).splitlines(keepends=True)
    source.close()
    result = run("import", "--strict", "-", folder=tmp_path, text=b"x\n" + second)
    assert result.returncode == 1 and b"0 kept" in result.stderr
    assert run("import", "-", folder=tmp_path, text=second).returncode == 0
    (tmp_path / "first").write_bytes(first)
    result = run("import", "first", folder=tmp_path)
    assert result.returncode == 1 and b"--merge puts it before them" in result.stderr
    assert run("import", "--merge", "first", folder=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export"], b"no such file"),
        (["check"], b"no such file"),
        (["backup", "copy.db"], b"no such file"),
        (["import", "nowhere"], b"nowhere"),
        (["import", "--merge", "-"], b"twice"),
        (["import", "--merge", "/dev/stdin"], b"twice"),  # what a shell's <(…) is
        (["export", "--storage-type", "memory"], b"memory"),
        (
            ["backup", "--storage-type", "postgres", "--database-url", "postgresql://x/y", "f"],
            b"pg_dump",
        ),
        (["nonsense"], b"nonsense"),
        (["backup", "-"], b"standard output"),
        (["check", "--database-url", "."], b"it is a directory"),
        (["import", "f", "postgresql://u:hunter2@h/d"], b"postgresql://u:\xe2\x80\xa6@h/d"),
        (["export", "--storage-type", "postgres://u:hunter2@h/d"], b"u:\xe2\x80\xa6@h"),
        (["check", "--database-url", "postgres:/u:hunter2@h"], b":\xe2\x80\xa6@h"),
        (["check", "--database-url", "user=u password=hunter2 host=h"], b"\xe2\x80\xa6 host=h"),
        (["check", "--database-url", "PASSWORD = 'a hunter2' host=h"], b"\xe2\x80\xa6 host=h"),
        (["check", "--database-url", r"password='a\' hunter2' host=h"], b"=\xe2\x80\xa6 host=h"),
        (["backup", "a", "postgresql://u@corp:hunter2@h"], b"u@corp:\xe2\x80\xa6@h"),
        (["backup", "a", "postgresql://u:hun ter2@h"], b"postgresql://u:\xe2\x80\xa6@h"),
        (["backup", "a", "postgresql://u:hun@ter2@h"], b"postgresql://u:\xe2\x80\xa6@h"),
        (["backup", "a", "postgresql://u:hun\nter2@h"], b"postgresql://u:\xe2\x80\xa6@h"),
    ],
    ids=range(21),
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: list[str], said: bytes) -> None:
    result = run(*arguments, folder=tmp_path, text=b"")
    assert result.returncode == 2
    assert result.stderr.startswith(b"Error: ") and result.stderr.count(b"\n") == 1
    assert said in result.stderr and result.stdout == b""
    assert b"ter2" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    sqlite_file(tmp_path).close()
    (tmp_path / "precious").write_text("mine")
    assert run("export", "precious", folder=tmp_path).returncode == 2
    assert (tmp_path / "precious").read_text() == "mine"


def test_an_export_that_is_interrupted_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end at a line, and look like all there is."""
    sqlite_file(tmp_path).close()
    arguments = ["export", "--database-url", str(tmp_path / "perfgate.db")]

    def interrupted(_: Storage, out: Any, __: Any) -> Any:
        out.write(b"{}\n")
        out.flush()
        assert not (tmp_path / "all.ndjson").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "export", interrupted)
    monkeypatch.setattr(cli, "exit_on_signals", lambda: None)  # the signals are the test run's
    with pytest.raises(click.Abort):
        cli.command.main([*arguments, str(tmp_path / "all.ndjson")], standalone_mode=False)
    assert not [*tmp_path.glob("all.ndjson*")]


def test_a_folder_that_may_not_be_read_may_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, and that it is was said to be a failure."""
    opens = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(13, "Permission denied")
        return opens(path, *rest, **more)

    with atomic_write(str(tmp_path / "file")) as partial:
        monkeypatch.setattr(os, "open", refuse)
        partial.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def refuse(*_: Any) -> None:
    """Do as `link` of a file system without links."""
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_its_name_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "file"
    with atomic_write(str(target)) as partial:
        partial.write_text("all of it")
        assert not target.exists()
    assert (target.read_text(), list(tmp_path.iterdir())) == ("all of it", [target])
    with pytest.raises(FileExistsError), atomic_write(str(target)):
        pytest.fail("it has a name already")
    for none in ("", ".", "/", f"{tmp_path}/new/"):
        with pytest.raises(IsADirectoryError), atomic_write(none):
            pytest.fail("it has no name")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_took_the_name_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "file"
    with pytest.raises(FileExistsError), atomic_write(str(target)) as partial:
        partial.write_text("ours")
        target.write_text("another's")
    assert (target.read_text(), list(tmp_path.iterdir())) == ("another's", [target])


def test_a_file_has_its_name_once_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the disk has the name before anybody is told that it is done."""
    target = tmp_path / "file"
    synced: list[tuple[Path, bool]] = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(str(target)) as partial:
        partial.write_text("all of it")
    assert synced == [(partial, False), (tmp_path, True)]


def test_an_export_for_which_there_is_no_room_is_one_line_and_no_file(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path)
    keep(source, "b", "v1", value=receipt(pad="x" * 200_000))
    source.close()
    result = in_shell('ulimit -f 100; exec "$@"', "export", "all.ndjson", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == b"Error: cannot write all.ndjson: File too large\n"
    assert not [*tmp_path.glob("all.ndjson*")]


def test_a_database_that_fails_meanwhile_is_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sqlite_file(tmp_path).close()
    arguments = ["--database-url", str(tmp_path / "perfgate.db"), str(tmp_path / "all.ndjson")]

    def fail(*_: Any) -> None:
        raise Unavailable("disk I/O error")

    monkeypatch.setattr(transfer, "export", fail)
    monkeypatch.setattr(cli, "exit_on_signals", lambda: None)  # the signals are the test run's
    monkeypatch.setattr("sys.argv", ["perfgate-server", "export", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code, capsys.readouterr().err) == (1, "Error: disk I/O error\n")
    assert not [*tmp_path.glob("all.ndjson*")]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [["export"], ["export", "-"], ["check"], ["--help"], ["--version"]]
)
def test_a_standard_output_that_is_full_is_one_line(
    tmp_path: Path, arguments: list[str], unbuffered: str
) -> None:
    source = sqlite_file(tmp_path)
    keep(source)
    source.close()
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [program(), *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            timeout=60,
        )
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: ") and result.stderr.count(b"\n") == 1
    assert result.stderr.endswith(b"No space left on device\n")
    assert (b"cannot write standard output: " in result.stderr) >= ("export" in arguments)


@pytest.mark.parametrize("arguments", [["export"], ["check"], ["--help"]])
def test_whoever_reads_no_more_is_told_nothing(tmp_path: Path, arguments: list[str]) -> None:
    """Not that an export is done either."""
    source = sqlite_file(tmp_path)
    keep(source)
    source.close()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        result = subprocess.run(
            [program(), *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED=""),
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (1, b"")


def test_a_dash_is_standard_output_as_it_is_standard_input(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path)
    keep(source, "b", "v1")
    expected = exported(source)
    source.close()
    result = run("export", "-", folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, expected)
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_closed_stream_that_is_not_needed_changes_nothing(tmp_path: Path, closed: str) -> None:
    source = sqlite_file(tmp_path)
    keep(source, "b", "v1")
    expected = exported(source)
    source.close()
    command = f"{program()} export all.ndjson {closed} && {program()} import all.ndjson {closed}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(), check=True, timeout=60)
    assert (tmp_path / "all.ndjson").read_bytes() == expected
    for command in ("export 1>&-", "import - 0<&-"):
        result = subprocess.run(
            ["sh", "-c", f"{program()} {command}"],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)


def test_a_pipe_is_told_the_outcome_and_shown_no_bar(tmp_path: Path) -> None:
    """What reads standard error is a log of CI."""
    source = sqlite_file(tmp_path)
    keep(source, "b", "v1")
    source.close()
    result = run("export", "all.ndjson", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"1 baselines and 0 verdicts exported\n")
    result = run("import", "all.ndjson", folder=tmp_path)
    assert (result.returncode, result.stderr.count(b"\n")) == (0, 1)
    assert result.stderr.startswith(b"0 kept, 1 present, ")


def test_a_misspelt_variable_is_told_by_every_command(tmp_path: Path) -> None:
    """Without a word `import` made another database than the one that was meant."""
    (tmp_path / "none.ndjson").touch()
    for command in (["import", "none.ndjson"], ["export"], ["backup", "copy.db"], ["check"]):
        result = run(*command, folder=tmp_path, PERFGATE_DATABASE="other.db")
        first = result.stderr.splitlines()[0]
        assert result.returncode == (1 if command[0] == "import" else 0), command
        assert first == (
            b"PERFGATE_DATABASE is not a perfgate-server variable: did you mean"
            b" PERFGATE_DATABASE_URL?"
        )


def test_what_is_counted_for_a_bar_alone_is_not_counted_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count takes long where there is much, and may fail."""
    source = sqlite_file(tmp_path)
    keep(source, "b", "v1")
    source.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SqlStorage, "counts", lambda *_, **__: pytest.fail("it is counted"))
    monkeypatch.setattr(cli, "exit_on_signals", lambda: None)  # the signals are the test run's
    cli.command.main(["export", "all.ndjson"], standalone_mode=False)
    assert (tmp_path / "all.ndjson").read_bytes().count(b"\n") == 1


def test_a_terminal_is_shown_a_bar_and_standard_output_is_not(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path)
    fill(source)
    expected = exported(source)
    source.close()
    (tmp_path / "all.ndjson").write_bytes(expected)
    reader, terminal = os.openpty()
    with open(reader, "rb", buffering=0) as screen, open(terminal, "wb", buffering=0) as stderr:
        for arguments, label, out in (
            (["export"], b"exporting", expected),
            (["import", "all.ndjson"], b"importing", b""),
        ):
            result = subprocess.run(
                [program(), *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=tmp_path,
                env=environment(TERM="xterm"),
                timeout=60,
            )
            assert (result.returncode, result.stdout) == (0, out)
            shown = screen.read(65536)
            steps = re.findall(rb"(\d+)%", shown)
            assert label in shown and len(steps) == 1 + 7  # one for each record
            assert steps[-1] == b"100" and steps.count(b"100") == 1


def test_a_command_that_ctrl_c_ends_says_so_by_its_exit_status(tmp_path: Path) -> None:
    """A script that went on would take what is there for all of the file."""
    source = sqlite_file(tmp_path, "source.db")
    keep(source, "b", "v1")
    process = subprocess.Popen(
        [program(), "import", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        # Where the tests run in the background, a shell has had them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin
    process.stdin.write(exported(source))
    process.stdin.flush()
    source.close()
    target = tmp_path / "perfgate.db"
    wait_for(lambda: target.is_file() and _count(target) == 1, "the record, and the wait for more")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and b"Traceback" not in said


def test_an_import_that_was_killed_is_finished_by_another(tmp_path: Path) -> None:
    source = sqlite_file(tmp_path, "source.db")
    for number in range(300):
        keep(source, "b", f"v{number}")
    (tmp_path / "all.ndjson").write_bytes(exported(source))
    source.close()
    process = subprocess.Popen(
        [program(), "import", "all.ndjson"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    target = tmp_path / "perfgate.db"
    wait_for(lambda: target.is_file() and _count(target) > 20, "the first records")
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    assert _count(target) < 300
    assert run("import", "all.ndjson", folder=tmp_path).returncode == 0
    done = sqlite_file(tmp_path)
    assert exported(done) == (tmp_path / "all.ndjson").read_bytes()
    done.close()


def _count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM baselines").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_a_backup_while_the_server_writes_is_complete(tmp_path: Path) -> None:
    """All that was acknowledged before it began is in it, and it is one whole file."""
    path = str(tmp_path / "perfgate.db")
    with sqlite_server(tmp_path) as server:
        acknowledged: list[str] = []
        done = threading.Event()

        def upload() -> None:
            while not done.is_set():
                version = f"v{len(acknowledged)}"
                assert server.put("b", version) == 201
                acknowledged.append(version)

        thread = threading.Thread(target=upload)
        thread.start()
        for count in (20, 40, 60):
            wait_for(functools.partial(lambda n: len(acknowledged) > n, count), "uploads")
            before = list(acknowledged)
            copy = tmp_path / "copies" / f"{count}.db"
            copy.parent.mkdir(exist_ok=True)
            assert run("backup", "--database-url", path, str(copy), folder=tmp_path).returncode == 0
            connection = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
            found = {row[0] for row in connection.execute("SELECT version FROM baselines")}
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.close()
            assert set(before) <= found
        done.set()
        thread.join()
        result = run("backup", "--database-url", path, str(copy), folder=tmp_path)
        assert result.returncode == 2 and b"exists already; choose another name" in result.stderr
        assert not list(copy.parent.glob("*.partial"))


@pytest.mark.parametrize("command", ["backup", "export"])
def test_what_is_made_of_a_database_only_its_owner_may_read(tmp_path: Path, command: str) -> None:
    """Others may read the database itself, and not enter its folder."""
    sqlite_file(tmp_path).close()
    (tmp_path / "perfgate.db").chmod(0o644)
    before = os.umask(0o022)
    try:
        result = run(command, "copy", folder=tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert (result.returncode, result.stdout) == (0, b"")
    said = {"backup": b"backed up to copy\n", "export": b"0 baselines and 0 verdicts exported\n"}
    assert result.stderr == said[command]


def test_a_backup_beside_the_log_of_another_database_is_not_touched(tmp_path: Path) -> None:
    """SQLite would write that log into it, and destroy it."""
    storage = sqlite_file(tmp_path)
    keep(storage)
    assert run("backup", "backup.db", folder=tmp_path).returncode == 0
    keep(storage, "b", "v2")
    backup, path = tmp_path / "backup.db", tmp_path / "perfgate.db"
    whole = backup.read_bytes()
    log = Path(f"{path}-wal").read_bytes()
    storage.close()
    path.unlink()
    backup.rename(path)
    Path(f"{path}-wal").write_bytes(log)
    for command in (["check"], ["export"], ["backup", "copy.db"], ["import", os.devnull]):
        result = run(*command, folder=tmp_path)
        assert result.returncode == 2 and b"it is a copy, and " in result.stderr
        assert path.read_bytes() == whole
    Path(f"{path}-wal").unlink()
    assert b"\nbaselines: 1\n" in run("check", folder=tmp_path).stdout


def test_of_an_emptied_database_no_backup_is_made_and_its_log_stays(tmp_path: Path) -> None:
    """SQLite would throw the log away, and what is only in it."""
    path, log = tmp_path / "perfgate.db", tmp_path / "perfgate.db-wal"
    path.touch()
    result = run("backup", "copy.db", folder=tmp_path)
    assert result.returncode == 2 and b"it is empty" in result.stderr
    log.write_bytes(b"what is only here")
    result = run("backup", "copy.db", folder=tmp_path)
    assert result.returncode == 2 and b"it is gone or empty, but " in result.stderr
    assert {*tmp_path.iterdir()} == {path, log} and log.read_bytes() == b"what is only here"


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGHUP", "SIGHUP under nohup"])
@pytest.mark.parametrize("command", ["backup", "export"])
def test_what_is_told_to_stop_leaves_no_part_of_a_file(
    tmp_path: Path, command: str, ending: str
) -> None:
    storage = sqlite_file(tmp_path)
    for place in range(12):
        samples = [{"wall_ms": place, "exit_code": 0, "stdout": "x" * 5_000_000}]
        keep(storage, "b", f"v{place}", value=receipt(samples=samples))
    storage.close()
    folder = tmp_path / "copies"
    folder.mkdir()
    name, _, nohup = ending.partition(" ")
    # Whoever runs the tests may have said nohup, too.
    action = signal.SIG_IGN if nohup else signal.SIG_DFL
    process = subprocess.Popen(
        [program(), command, "--database-url", "perfgate.db", str(folder / "copy")],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, action),
    )
    wait_for(lambda: any(folder.iterdir()), "a part of it")
    process.send_signal(signal.Signals[name])
    assert process.wait(PATIENCE) == (0 if nohup else 128 + signal.Signals[name])
    assert [path.name for path in folder.iterdir()] == ["copy"] * bool(nohup)


def test_check_tells_what_is_there_and_what_is_damaged(tmp_path: Path) -> None:
    storage = sqlite_file(tmp_path)
    fill(storage)
    for number in range(200):
        keep(storage, "many", f"v{number}", value=receipt(wall_ms=number))
    storage.close()
    result = run("check", folder=tmp_path)
    assert result.returncode == 0
    assert b"integrity: ok\nschema version: 6\nprojects: 2\nbaselines: 204\n" in result.stdout
    assert result.stdout.endswith(b"\nverdicts: 3\n")
    path = tmp_path / "perfgate.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        change = "UPDATE totals SET number = number + ? WHERE kind = ?"
        # One too many, one too few, and as many in all as there should be.
        for step in ((1, "verdicts"), (-2, "verdicts"), (1, "baselines")):
            db.execute(change, step)
            result = run("check", folder=tmp_path)
            assert (result.returncode, b"\ntotals: wrong for " in result.stdout) == (1, True)
            assert b" wrong for p, q; " in result.stdout
        for step in ((1, "verdicts"), (-1, "baselines")):
            db.execute(change, step)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(os.urandom(4096 * 4))
    result = run("check", folder=tmp_path)
    assert result.returncode in (1, 2) and b"integrity: ok" not in result.stdout
    result = run("backup", "copy.db", folder=tmp_path)
    assert result.returncode == 2
    assert not list(tmp_path.glob("copy*"))
    garbage = tmp_path / "garbage"
    garbage.write_text("not a database" * 1000)
    assert run("check", "--database-url", "garbage", folder=tmp_path).returncode == 2


def test_check_finds_a_record_without_its_receipt(tmp_path: Path) -> None:
    """As when somebody deletes one with SQLite's own shell, which heeds no foreign keys."""
    storage = sqlite_file(tmp_path)
    keep(storage)
    storage.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "perfgate.db")) as db, db:
        db.execute("DELETE FROM receipts")
    result = run("check", folder=tmp_path)
    assert (result.returncode, result.stderr) == (1, b"")
    assert b"\nintegrity: a row of " in result.stdout
    assert result.stdout.endswith(b" lacks its row of receipts\n")
    assert run("backup", "copy.db", folder=tmp_path).returncode == 2
    assert not list(tmp_path.glob("copy*"))


def test_check_tells_a_restore_that_failed_from_totals_that_are_wrong(
    postgres: Postgres, tmp_path: Path
) -> None:
    """As that into a database on which a server has started. An export would lack the records."""
    with postgres.database() as url:
        with contextlib.closing(open_storage("postgres", url, pool_size=1)) as storage:
            keep(storage)
        postgres.execute(
            "SET session_replication_role = replica; DELETE FROM baselines", database_of(url)
        )
        result = run("check", "--storage-type", "postgres", "--database-url", url, folder=tmp_path)
    assert (result.returncode, result.stderr) == (1, b"")
    assert b"\nbaselines: 0\nreceipts: 1\n" in result.stdout
    assert result.stdout.endswith(b"as after a restore that failed; restore anew\n")


def test_check_says_that_half_a_database_is_damaged(tmp_path: Path) -> None:
    storage = sqlite_file(tmp_path)
    keep(storage)
    storage.close()
    path = tmp_path / "perfgate.db"
    os.truncate(path, path.stat().st_size // 2)
    result = run("check", folder=tmp_path)
    assert (result.returncode, result.stderr) == (1, b"")
    assert result.stdout.endswith(b"\nintegrity: database disk image is malformed\n")


def test_check_counts_a_receipt_that_two_records_share_once(tmp_path: Path) -> None:
    storage = sqlite_file(tmp_path)
    keep(storage)
    storage.promote(promotion(), deadline=soon())
    storage.close()
    result = run("check", folder=tmp_path)
    assert result.stdout.endswith(b"\nprojects: 1\nbaselines: 2\nreceipts: 1\nverdicts: 0\n")


def test_check_names_a_file_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.db")
    open_storage("sqlite", path, pool_size=1).close()
    result = run("check", "--database-url", path, folder=tmp_path, PYTHONIOENCODING="utf-8:strict")
    assert result.returncode == 0
    assert result.stdout.startswith(f"database: {tmp_path}/caf\\udce9.db\nintegrity: ok".encode())


def test_check_names_a_file_whose_name_the_terminal_cannot_show(tmp_path: Path) -> None:
    open_storage("sqlite", str(tmp_path / "ü.db"), pool_size=1).close()
    result = run("check", "--database-url", "ü.db", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(f"database: {tmp_path}/\\xfc.db\nintegrity: ok".encode())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_was_done_is_done_where_nothing_can_be_printed(
    tmp_path: Path, unbuffered: str
) -> None:
    with contextlib.closing(sqlite_file(tmp_path)) as storage:
        keep(storage, "b", "v1")
    # The last ends with its own status.
    commands = {"export a.ndjson": 0, "backup b.db": 0, "import a.ndjson": 0, "backup c/d.db": 2}
    for command, status in commands.items():
        result = in_shell(
            'exec "$@" 2>/dev/full',
            *command.split(),
            folder=tmp_path,
            PYTHONUNBUFFERED=unbuffered,
        )
        assert (command, result.returncode) == (command, status)


@pytest.mark.parametrize("command", [["check"], ["export", "all.ndjson"], ["--port", "0"]])
def test_a_folder_that_is_gone_is_one_line(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    result = in_shell('rmdir "$PWD"; exec "$@"', *command, folder=folder)
    assert result.returncode == 2
    assert result.stderr == b"Error: the working directory is gone\n"


def test_a_command_takes_the_options_before_it_and_no_keys(tmp_path: Path) -> None:
    sqlite_file(tmp_path, "mine.db").close()
    result = run(
        "--database-url",
        "mine.db",
        "check",
        folder=tmp_path,
        PERFGATE_API_KEYS="not a list of keys",
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"/mine.db\nintegrity: ok\n" in result.stdout


def test_of_several_databases_a_command_takes_the_one_that_is_named_last(tmp_path: Path) -> None:
    """The variable's, that of an option before the command, that of one after it."""
    for name in ("variable", "before", "after"):
        sqlite_file(tmp_path, name).close()
    before, after = ["--database-url", "before"], ["--database-url", "after"]
    for command, name in (
        (["check"], "variable"),
        ([*before, "check"], "before"),
        ([*before, "check", *after], "after"),
    ):
        result = run(*command, folder=tmp_path, PERFGATE_DATABASE_URL="variable")
        assert result.stdout.startswith(f"database: {tmp_path}/{name}\nintegrity: ok\n".encode())
