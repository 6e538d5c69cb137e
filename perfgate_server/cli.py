"""The command line."""

from __future__ import annotations

import sys
from typing import Any

import click

from perfgate_server.config import (
    DEFAULT_SQLITE_PATH,
    ConfigError,
    ServerConfig,
    error_line,
    option_of,
)
from perfgate_server.storage.base import CannotOpen
from perfgate_server.version import VERSION

# name of the field, metavar, help: the text goes to ServerConfig.load, which also reads the
# variable, so both have one parser and one set of errors.
_OPTIONS = (
    ("bind", "ADDRESS", "Address to listen on.", "0.0.0.0"),
    ("port", "PORT", "Port to listen on; 0 takes any free one.", "8080"),
    ("storage_type", "memory|sqlite|postgres", "Where baselines are kept.", "memory"),
    (
        "database_url",
        "PATH|URL",
        "The database: for sqlite the path of its file, for postgres its URL.",
        DEFAULT_SQLITE_PATH,
    ),
    ("timeout", "SECONDS", "How long a request may wait for the storage.", "30"),
    ("log_level", "trace|debug|info|warn|error", "The least level to log.", "info"),
    ("log_format", "json|pretty", "How log lines look.", "json"),
    ("workers", "N", "Processes.", "one a core; one for memory"),
    ("threads", "N", "Threads in each process.", "4"),
    ("max_body_size", "SIZE", "The largest request body, such as 16MiB.", "16MiB"),
    ("pool_size", "N", "Connections to postgres in each process.", "one a thread"),
    ("trusted_proxies", "N", "How many hops of X-Forwarded-* to believe.", "0"),
)


def _variable(name: str) -> str:
    return f"PERFGATE_{name.upper()}"


def _options(command: Any) -> Any:
    for name, metavar, text, default in reversed(_OPTIONS):
        described = f"{text}  [env: {_variable(name)}; default: {default}]"
        command = click.option(option_of(name), metavar=metavar, help=described)(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@_options
@click.option(
    "--api-keys",
    multiple=True,
    metavar="LIST",
    help="Keys to accept: role:key[:project[:benchmark_regex]], separated by commas; may be"
    " repeated.  [env: PERFGATE_API_KEYS]",
)
@click.option(
    "--api-keys-file",
    metavar="FILE",
    help="A file with one key a line, which keeps keys out of the process list."
    "  [env: PERFGATE_API_KEYS_FILE]",
)
@click.option(
    "--no-cors",
    is_flag=True,
    default=None,
    help="Send no cross-origin headers.  [env: PERFGATE_NO_CORS]",
)
@click.version_option(VERSION, prog_name="perfgate-server")
def command(
    api_keys: tuple[str, ...], api_keys_file: str | None, no_cors: bool | None, **options: str
) -> None:
    """Keep performance baselines: upload, fetch and promote perfgate receipts over HTTP.

    Options win over variables; keys from all places add up. Without any key the server makes
    one, prints it, and accepts only that.
    """
    # Imported here: --help needs no web server.
    from perfgate_server.server import run_server

    given = {name: text for name, text in options.items() if text is not None}
    if no_cors:
        given["no_cors"] = "true"
    run_server(ServerConfig.load(given, api_keys=api_keys, api_keys_file=api_keys_file))


def main() -> None:
    """Run the command; what is wrong becomes one ``Error:`` line and exit status 2."""
    try:
        status = command.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except (ConfigError, CannotOpen) as error:
        _fail(str(error))
    except click.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(error_line(message), file=sys.stderr)
    sys.exit(2)
