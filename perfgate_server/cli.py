"""The command line."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import click

from perfgate_server.config import (
    DEFAULT_SQLITE_PATH,
    LOG_FORMATS,
    LOG_LEVELS,
    STORAGE_TYPES,
    ConfigError,
    ServerConfig,
    misspelt,
    option_of,
    variable_of,
)
from perfgate_server.files import atomic_write
from perfgate_server.storage.base import CannotOpen, StorageError
from perfgate_server.terminal import end, say
from perfgate_server.version import VERSION

if TYPE_CHECKING:
    from perfgate_server.storage import Storage

#: Seconds that a question about the whole of a database may take.
_TIMEOUT = 600


class _Option(NamedTuple):
    """An option whose text goes to ServerConfig.load, which also reads the variable: both have one
    parser and one set of errors."""

    field: str
    metavar: str
    help: str
    #: What the help says of the default; None: what the field has.
    default: str | None = None


_DATABASE_OPTION = _Option(
    "database_url",
    "PATH|URL",
    "The database: for sqlite the path of its file, for postgres its URL.",
    DEFAULT_SQLITE_PATH,
)
_STORAGE_OPTIONS = (
    _Option("storage_type", "sqlite|postgres", "Where baselines are kept.", "sqlite"),
    _DATABASE_OPTION,
)
_SERVER_OPTIONS = (
    _Option("bind", "ADDRESS", "Address to listen on."),
    _Option("port", "PORT", "Port to listen on; 0 takes any free one."),
    _Option("storage_type", "|".join(STORAGE_TYPES), "Where baselines are kept."),
    _DATABASE_OPTION,
    _Option("timeout", "SECONDS", "Time to receive a request or await storage."),
    _Option("log_level", "|".join(LOG_LEVELS), "Lowest level to log."),
    _Option("log_format", "|".join(LOG_FORMATS), "How log lines look."),
    _Option("workers", "N", "Processes.", "one a core; one for memory"),
    _Option("threads", "N", "Threads in each process."),
    _Option("max_body_size", "SIZE", "The largest request body, such as 16MiB.", "16MiB"),
    _Option("pool_size", "N", "Connections to postgres in each process.", "one a thread"),
    _Option("trusted_proxies", "N", "How many hops of X-Forwarded-* to believe."),
)


def _options(options: Sequence[_Option]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for name, metavar, text, default in reversed(options):
            if default is None:
                value = getattr(ServerConfig, name)
                default = f"{value:g}" if isinstance(value, float) else str(value)
            described = f"{text}  [env: {variable_of(name)}; default: {default}]"
            command = click.option(option_of(name), metavar=metavar, help=described)(command)
        return command

    return decorate


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@_options(_SERVER_OPTIONS)
@click.option(
    "--api-keys",
    multiple=True,
    metavar="LIST",
    help="Keys to accept: role:key[:project[:benchmark_regex]], separated by commas; may be"
    " repeated.  [env: PERFGATE_API_KEYS]",
)
@click.option(
    "--api-keys-file",
    multiple=True,
    metavar="FILE",
    help="A file with one key a line, which keeps keys out of the process list; may be repeated."
    "  [env: PERFGATE_API_KEYS_FILE]",
)
@click.option(
    "--no-cors",
    is_flag=True,
    help="Send no cross-origin headers.  [env: PERFGATE_NO_CORS]",
)
@click.version_option(VERSION, prog_name="perfgate-server")
@click.pass_context
def command(
    context: click.Context,
    /,
    api_keys: tuple[str, ...],
    api_keys_file: tuple[str, ...],
    no_cors: bool,
    **options: str | None,
) -> None:
    """Keep performance baselines: upload, fetch and promote perfgate receipts over HTTP.

    Without a command it serves. Options win over variables; keys from all places add up. Without
    any key the server makes one, prints it, and accepts only that.
    """
    given = {name: text for name, text in options.items() if text is not None}
    context.obj = given
    if context.invoked_subcommand is not None:
        return
    # Imported here: --help and the other commands need no web server.
    from perfgate_server.server import run_server

    if no_cors:
        given["no_cors"] = "true"
    run_server(ServerConfig.load(given, api_keys=api_keys, api_keys_files=api_keys_file))


def _storage_config(context: click.Context, options: dict[str, str | None]) -> ServerConfig:
    """Return the configuration of a command on a storage: in sqlite, unless told otherwise."""
    before: dict[str, str] = context.obj
    given = before | {name: text for name, text in options.items() if text is not None}
    # Keys are the server's: whoever backs up need not be able to read their file.
    environ = {name: text for name, text in os.environ.items() if "API_KEYS" not in name}
    config = ServerConfig.load(given, environ=environ, storage_type="sqlite")
    for sentence in misspelt(os.environ):
        say(sentence)
    if config.storage_type == "memory":
        raise ConfigError("storage type memory lives in the server's process; name another")
    return config


@contextlib.contextmanager
def _opened(config: ServerConfig, *, create: bool) -> Iterator[Storage]:
    from perfgate_server.storage import open_storage

    storage = open_storage(config.storage_type, config.location, pool_size=2, create=create)
    with contextlib.closing(storage):
        yield storage


def exit_on_signals() -> None:
    """Let SIGTERM, and a terminal that is closed, end this program as Ctrl-C does: no part of a
    file is left, and nothing that it started."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def _progress(label: str, length: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, and nothing in a pipe, for which `length` is not asked."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length(), label=label, file=sys.stderr) as bar:
        yield bar.update


@command.command("export")
@_options(_STORAGE_OPTIONS)
@click.argument("file", required=False)
@click.pass_context
def export_command(context: click.Context, /, file: str | None, **options: str | None) -> None:
    """Write every baseline and verdict as NDJSON to FILE or (without it, or for -) to standard
    output.

    The server may run meanwhile: what is written is the state of one moment. FILE must not exist;
    it gets its name once it is complete.
    """
    from perfgate_server import transfer

    exit_on_signals()
    with contextlib.ExitStack() as stack:
        config = _storage_config(context, options)
        storage = stack.enter_context(_opened(config, create=False))
        target = None if file == "-" else file
        out = _output(target, stack)
        progress = stack.enter_context(_progress("exporting", lambda: _number(storage)))
        try:
            baselines, verdicts = transfer.export(storage, out, progress)
        except BrokenPipeError:
            raise  # it ends without a word
        except OSError as error:
            end(f"cannot write {target or 'standard output'}: {error.strerror}", 1)
    say(f"{baselines} baselines and {verdicts} verdicts exported")


def _output(target: str | None, stack: contextlib.ExitStack) -> BinaryIO:
    """Return a new file, or standard output without a target. Raises ConfigError."""
    if target is None:
        if sys.stdout is None:
            raise ConfigError("standard output is closed; name a FILE")
        return sys.stdout.buffer
    try:
        return stack.enter_context(stack.enter_context(atomic_write(target)).open("wb"))
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None


def _number(storage: Storage) -> int:
    counts = storage.counts(deadline=_deadline())
    return counts.baselines + counts.verdicts


@command.command("import")
@_options(_STORAGE_OPTIONS)
@click.option(
    "--merge",
    is_flag=True,
    help="Put baselines and verdicts before newer ones of their benchmark that FILE does not have.",
)
@click.option("--strict", is_flag=True, help="Stop at the first line that is not valid.")
@click.argument("file")
@click.pass_context
def import_command(
    context: click.Context, /, file: str, merge: bool, strict: bool, **options: str | None
) -> int:
    """Read the baselines and verdicts in FILE, which `export` wrote (- is standard input).

    What is there already stays as it is, so an import that was interrupted can be run again. The
    exit status is 0 if all of FILE is there at the end, 1 if not, and 2 if FILE or the database
    cannot be opened.
    """
    from perfgate_server import transfer

    with contextlib.ExitStack() as stack:
        config = _storage_config(context, options)
        source = _input(file, stack)
        if merge and not source.seekable():
            raise ConfigError("--merge reads FILE twice: it cannot be a pipe")
        storage = stack.enter_context(_opened(config, create=True))
        size = 0 if file == "-" else Path(file).stat().st_size
        progress = stack.enter_context(_progress("importing", lambda: size))
        report = transfer.restore(
            storage, source, merge=merge, strict=strict, complain=say, progress=progress
        )
    say(report.summary())
    return 0 if report.complete else 1


def _input(file: str, stack: contextlib.ExitStack) -> BinaryIO:
    """Return a file, or standard input for -. Raises ConfigError, also for what no export wrote."""
    if file == "-" and sys.stdin is None:
        raise ConfigError("standard input is closed; name a FILE")
    try:
        source = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    _check_kind(source, file)
    return source


def _check_kind(source: BinaryIO, file: str) -> None:
    """Raise ConfigError for what may be taken for an export, and has no line that is right."""
    start = source.peek(16) if isinstance(source, io.BufferedReader) else b""
    for magic, kind in ((b"SQLite format 3\0", "an SQLite database"), (b"\x1f\x8b", "compressed")):
        if start.startswith(magic):
            raise ConfigError(f"{file} is {kind}; import reads what export wrote")


@command.command("backup")
@_options(_STORAGE_OPTIONS)
@click.argument("file")
@click.pass_context
def backup_command(context: click.Context, /, file: str, **options: str | None) -> None:
    """Copy the SQLite database to FILE, while the server serves.

    FILE must not exist; it gets its name once it is complete and was found intact.
    """
    from perfgate_server.storage import sqlite_file

    exit_on_signals()
    config = _storage_config(context, options)
    if config.storage_type != "sqlite":
        raise ConfigError("backup is for sqlite; for postgres use pg_dump, or export")
    if file == "-":
        raise ConfigError("backup writes a file; for standard output use export")
    sqlite_file.backup(Path(config.location or ""), file)
    say(f"backed up to {file}")


@command.command("check")
@_options(_STORAGE_OPTIONS)
@click.pass_context
def check_command(context: click.Context, /, **options: str | None) -> int:
    """Report a database's schema version, integrity and counts.

    The exit status is 1 if it is damaged, 2 if it is none, or cannot be opened.
    """
    from perfgate_server.storage import sqlite_file

    config = _storage_config(context, options)
    problem = None
    if config.storage_type == "sqlite":
        problem = sqlite_file.check(Path(config.location or ""))
    print(f"database: {config.shown_location}")
    if problem:
        print(f"integrity: {problem}")
        return 1
    with _opened(config, create=False) as storage:
        counts = storage.counts(deadline=_deadline())
    if config.storage_type == "sqlite":
        print("integrity: ok")
    print(f"schema version: {counts.schema_version}")
    print(f"projects: {counts.projects}")
    print(f"baselines: {counts.baselines}")
    print(f"receipts: {counts.receipts}")
    print(f"verdicts: {counts.verdicts}")
    if counts.receipts > counts.baselines:
        # Then the totals are wrong too, and an export would lack what is there.
        print("receipts: more than baselines, as after a restore that failed; restore anew")
        return 1
    if counts.wrong_totals:
        print(f"totals: wrong for {', '.join(counts.wrong_totals)}; to mend, export and import")
        return 1
    return 0


def _deadline() -> float:
    return time.monotonic() + _TIMEOUT


def main() -> None:
    """Run the command; what is wrong becomes one ``Error:`` line and exit status 2."""
    if sys.stderr is None:  # closed, as by 2>&-; what is printed there would go to standard output
        sys.stderr = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for the name of a database
    try:
        status = command.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        end(error.format_message())
    except (ConfigError, CannotOpen) as error:
        end(error)
    except BrokenPipeError:  # whoever reads has had enough, and wants no word
        sys.exit(1)
    except (StorageError, OSError) as error:
        if isinstance(error, FileNotFoundError) and error.filename is None:
            end("the working directory is gone")  # only getcwd names no file
        end(error, 1)
    except click.Abort:
        sys.exit(130)
    finally:
        _forget_unwritten()
    sys.exit(status)


def _forget_unwritten() -> None:
    """Forget what the standard streams do not take: the interpreter would try again at its end, and
    say so in words, and an exit status, of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
