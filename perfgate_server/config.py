"""The server's settings: defaults < environment < arguments, validated once, here."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from perfgate_server import keys
from perfgate_server.keys import ApiKey, Role
from perfgate_server.terminal import printable

STORAGE_TYPES = ("memory", "sqlite", "postgres")
LOG_LEVELS = ("trace", "debug", "info", "warn", "error")
LOG_FORMATS = ("json", "pretty")
DEFAULT_SQLITE_PATH = "./perfgate.db"
#: How alike two names are of which one is taken for the other, as difflib measures it: at most 1.
_NEARLY = 0.9


#: What a path has that comes from a file with the line ends of Windows, or with quotes that stay.
_ASTRAY = re.compile(r"[\x00-\x1f\x7f]|\A\s|\s\Z|\A(['\"]).*\1\Z")


class ConfigError(Exception):
    """A setting that cannot be used. Its text never holds a key."""

    def __init__(self, reason: str) -> None:
        super().__init__(keys.redact(reason))


def address(host: str, port: object) -> str:
    """Return a host and a port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _setting(env: str, parse: Callable[[str], Any], default: Any, **options: Any) -> Any:
    return field(default=default, metadata={"env": env, "parse": parse}, **options)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("must be a whole number")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ValueError("must be a number of seconds")
    return float(text)


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def _size(text: str) -> int:
    match = re.fullmatch(
        r"([0-9]{1,12}) ?(?:(|B|[KMG])|([KMG])i?B)", text, re.ASCII | re.IGNORECASE
    )
    if not match:
        raise ValueError("must be a number of bytes, such as 1048576 or 16MiB")
    return int(match[1]) * _UNITS[(match[2] or match[3] or "").upper()]


_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True}
_BOOLEANS |= {"false": False, "0": False, "no": False, "off": False}


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


@dataclass(frozen=True)
class ServerConfig:
    """Everything the server can be told, checked when it is made.

    bind, port: the address to listen on; port 0 takes any free one.
    storage_type: ``memory``, ``sqlite`` or ``postgres``.
    database_url: for sqlite a path (default ``./perfgate.db``), for postgres a
        ``postgresql://`` URL; none for memory.
    api_keys: the keys to accept, best added with `api_key`.
    no_cors: whether cross-origin requests are left to the browser's same-origin rule.
    timeout: seconds to receive a request, or 256 KiB of it; a request that waits for the storage
        for nine tenths of them is answered 503.
    log_level, log_format: as LOG_LEVELS and LOG_FORMATS.
    workers, threads: processes (None: one a core, at most 8), threads in each: they overlap waiting
        (disk, locks), not Python.
    max_body_size: bytes a request body may have.
    pool_size: connections to postgres in each process; None for one a thread.
    trusted_proxies: how many hops of ``X-Forwarded-*`` to believe.

    Raises ConfigError for a value, or a combination, that cannot be used.
    """

    bind: str = _setting("PERFGATE_BIND", str, "0.0.0.0")
    port: int = _setting("PERFGATE_PORT", _integer, 8080)
    storage_type: str = _setting("PERFGATE_STORAGE_TYPE", str, "memory")
    database_url: str | None = _setting("PERFGATE_DATABASE_URL", str, None, repr=False)
    no_cors: bool = _setting("PERFGATE_NO_CORS", _boolean, False)
    timeout: float = _setting("PERFGATE_TIMEOUT", _seconds, 30.0)
    log_level: str = _setting("PERFGATE_LOG_LEVEL", str.lower, "info")
    log_format: str = _setting("PERFGATE_LOG_FORMAT", str.lower, "json")
    workers: int | None = _setting("PERFGATE_WORKERS", _integer, None)
    threads: int = _setting("PERFGATE_THREADS", _integer, 4)
    max_body_size: int = _setting("PERFGATE_MAX_BODY_SIZE", _size, 16 * 2**20)
    pool_size: int | None = _setting("PERFGATE_POOL_SIZE", _integer, None)
    trusted_proxies: int = _setting("PERFGATE_TRUSTED_PROXIES", _integer, 0)
    api_keys: tuple[ApiKey, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("storage type", self.storage_type, STORAGE_TYPES)
        _check_choice("log level", self.log_level, LOG_LEVELS)
        _check_choice("log format", self.log_format, LOG_FORMATS)
        _check_range("port", self.port, 0, 65535)
        _check_range("timeout", self.timeout, 0.1, 3600, int | float)
        _check_range("threads", self.threads, 1, 512)
        _check_range("max body size", self.max_body_size, 1024, 2**30)
        _check_range("trusted proxies", self.trusted_proxies, 0, 16)
        if self.workers is not None:
            _check_range("workers", self.workers, 1, 512)
        if self.pool_size is not None:
            _check_range("pool size", self.pool_size, 1, 512)
        if not self.bind:
            raise ConfigError("the address to bind is empty; 0.0.0.0 is every IPv4 address")
        if self.storage_type == "postgres":
            _check_postgres_url(self.database_url or "")
        elif self.storage_type == "memory":
            _check_memory(self.database_url or "", self.workers)
        elif self.database_url is not None:
            _check_sqlite_path(self.database_url)
        digests = set()
        for key in self.api_keys:
            if key.digest in digests:
                raise ConfigError(f"the API key {key.id} is given twice; each key has one role")
            digests.add(key.digest)

    def api_key(
        self, key: str, role: Role, project: str | None = None, benchmarks: str | None = None
    ) -> ServerConfig:
        """Return this configuration with one more key.

        `project` limits the key to that project, `benchmarks` (a regular expression) to the
        benchmarks that it matches whole. Raises ConfigError, whose text never holds the key.
        """
        try:
            added = keys.make(key, role, project, benchmarks)
        except ValueError as error:
            raise ConfigError(f"API key: {error}") from None
        return replace(self, api_keys=(*self.api_keys, added))

    def with_generated_key(self) -> tuple[ServerConfig, str | None]:
        """Return a configuration that has a key: this one and None, or, if it has none, one
        with an admin key that was made now, and that key."""
        if self.api_keys:
            return self, None
        key = keys.generate()
        return self.api_key(key, Role.ADMIN), key

    @property
    def location(self) -> str | None:
        """Where the database is: for sqlite an absolute path, for postgres its URL."""
        if self.storage_type == "sqlite":
            return str(Path(self.database_url or DEFAULT_SQLITE_PATH).absolute())
        return self.database_url

    @property
    def shown_location(self) -> str:
        """Where the database is, for people: a URL without its password."""
        location = self.location or ""
        if self.storage_type == "postgres":
            location = without_password(location)
        return printable(location)

    @property
    def effective_pool_size(self) -> int:
        """Concurrent users of the storage in each process: `pool_size` for postgres if it is set,
        else all threads."""
        chosen = self.pool_size if self.storage_type == "postgres" else None
        return chosen or self.threads

    @property
    def effective_workers(self) -> int:
        """Processes to run: one a core up to 8; one for memory, which lives in one process."""
        if self.storage_type == "memory":
            return 1
        return self.workers or min(_cores(), 8)

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, str] | None = None,
        *,
        api_keys: Iterable[str] = (),
        api_keys_files: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
        storage_type: str = "memory",
    ) -> ServerConfig:
        """Read the settings: defaults < `environ` < `arguments`; keys from all places add up.

        `arguments` maps field names to the text of ``--options`` (for errors, `--max-body-size`
        is the option of ``max_body_size``), `api_keys` and `api_keys_files` are those options,
        `environ` defaults to the process's, `storage_type` is the default. Raises ConfigError.
        """
        arguments = arguments or {}
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {"storage_type": storage_type}
        for name, setting in _settings().items():
            source, text = option_of(name), arguments.get(name)
            if text is None:
                source, text = setting["env"], _from_environment(name, setting["env"], environ)
            if text is None:
                continue
            try:
                values[name] = setting["parse"](text)
            except ValueError as error:
                raise ConfigError(f"{source}: {error}, not {text!r}") from None
        found = _all_keys(environ, api_keys, api_keys_files)
        return cls(api_keys=tuple(found), **values)


@functools.cache
def _settings() -> dict[str, Mapping[str, Any]]:
    """Return what `_setting` was told of each field that has a variable."""
    return {one.name: one.metadata for one in fields(ServerConfig) if one.metadata}


def _from_environment(name: str, variable: str, environ: Mapping[str, str]) -> str | None:
    """Return what the environment says of a setting, None for nothing."""
    text = environ.get(variable)
    if name == "port" and text is not None and text.startswith("tcp://"):
        return None  # Kubernetes sets it so for a service named "perfgate"
    # An empty variable is an unset one, except where data would go astray.
    return text if text or name == "database_url" else None


def _all_keys(
    environ: Mapping[str, str], api_keys: Iterable[str], api_keys_files: Iterable[str]
) -> list[ApiKey]:
    texts = [("--api-keys", text) for text in api_keys]
    texts += _variable(environ, "PERFGATE_API_KEYS")
    files = [("--api-keys-file", path) for path in api_keys_files]
    files += _variable(environ, "PERFGATE_API_KEYS_FILE")
    found = [key for source, text in texts for key in _parse_keys(source, keys.split(text))]
    for source, path in files:
        found += _read_keys(source, path)
    return found


def misspelt(variables: Iterable[str]) -> list[str]:
    """Return a sentence for each of these names that is nearly that of a variable of ours, or its
    beginning: PERFGATE_STORAGE would leave the data in memory without a word. So would one of ours
    in lower case, or behind a byte order mark, as the first in a file may be."""
    names = {setting["env"] for setting in _settings().values()} | {
        "PERFGATE_API_KEYS",
        "PERFGATE_API_KEYS_FILE",
    }
    found = []
    for name in sorted({*variables} - names):
        plain = name.removeprefix("\ufeff").upper()
        if name == "PERFGATE_API_KEY":
            found.append(f"{name} is the perfgate client's key; the server's are {name}S")
            continue
        if not plain.startswith("PERFGATE_"):
            continue
        begun = [ours for ours in sorted(names) if ours.startswith(f"{plain}_")]
        nearly = begun or difflib.get_close_matches(plain, names, 1, _NEARLY)
        meant = [plain] if plain in names else nearly
        if meant:
            asked = f"did you mean {' or '.join(meant)}?"
            found.append(f"{name} is not a perfgate-server variable: {asked}")
    return found


def without_password(url: str) -> str:
    """Return where a database URL leads, for a log line."""
    scheme, _, rest = url.partition("://")
    if set("/?#") & set(rest.rpartition("@")[0]):
        return f"{scheme}://…"  # what libpq takes for the password, others take for the end of it
    try:
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        hosts = parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", []))
        for host in hosts.split(","):
            _ = urlsplit(f"//{host}").port  # what is none may be a piece of the password
    except ValueError:
        return f"{scheme}://…"
    return f"{parts.scheme}://{user}{hosts}{parts.path}"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def option_of(name: str) -> str:
    """Return the command line's option for a field: ``max_body_size`` -> ``--max-body-size``."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment's variable for a field."""
    return str(_settings()[name]["env"])


def _variable(environ: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    return [(name, environ[name])] if environ.get(name, "").strip() else []


def _parse_keys(source: str, entries: Iterable[str]) -> list[ApiKey]:
    return [_parse_key(f"{source}: key {number}", entry) for number, entry in enumerate(entries, 1)]


def _parse_key(where: str, entry: str) -> ApiKey:
    try:
        return keys.parse(entry)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_keys(source: str, path: str) -> list[ApiKey]:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{source}: cannot read {path!r}: {reason}") from None
    found = []
    # At line feeds alone: what else splitlines takes for an end may stand unseen in a comment.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            found.append(_parse_key(f"{source}: {path}: line {number}", line))
    if not found:
        # An empty file is a mount or a template that failed, not a request for a generated key.
        raise ConfigError(f"{source}: {path!r} holds no key")
    return found


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"the {name} must be one of {', '.join(choices)}, not {value!r}")


def _check_range(
    name: str, value: object, low: float, high: float, kind: type[int] | UnionType = int
) -> None:
    # To Python True is an integer too; NaN is in no range.
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "an integer" if kind is int else "a number"
        raise ConfigError(f"{name} must be {what} from {low} to {high}, not {value!r}")


def _is_of_postgres(url: str) -> bool:
    return url.startswith(("postgresql://", "postgres://"))


def _check_postgres_url(url: str) -> None:
    # Not shown: what it is may hold a password.
    if not _is_of_postgres(url):
        raise ConfigError("for postgres a database URL is needed that begins with postgresql://")
    if _ASTRAY.search(url):
        raise ConfigError(
            "the database URL has a control character in it, or white space at its end"
        )


def _check_memory(url: str, workers: int | None) -> None:
    if url:
        meant = "postgres" if _is_of_postgres(url) else "sqlite"
        raise ConfigError(
            "a database URL is given, but storage type memory keeps nothing;"
            f" did you mean --storage-type {meant}?"
        )
    if workers is not None and workers > 1:
        raise ConfigError(
            f"storage type memory lives in one process, and {workers} workers are asked for"
        )


def _check_sqlite_path(path: str) -> None:
    if not path.strip():
        raise ConfigError("the database URL is empty; for sqlite it is the path of a file")
    if path == ":memory:":
        raise ConfigError("the database URL is :memory:; use --storage-type memory for that")
    if "://" in path or path.startswith("file:"):  # not shown, as above
        hint = "; did you mean --storage-type postgres?" if _is_of_postgres(path) else ""
        raise ConfigError(
            f"for sqlite the database URL is a plain path, such as ./perfgate.db{hint}"
        )
    if _ASTRAY.search(path):
        # It would name another file, of which a new, empty database would be made.
        raise ConfigError(
            f"the database path is {path!r}: with quotes or white space around it, or a control"
            " character in it"
        )
