"""Settings: where they come from, which wins, what is refused."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from perfgate_server import Role, ServerConfig
from perfgate_server.config import ConfigError, misspelt, without_password
from perfgate_server.keys import digest, id_of

KEY = "pg_live_" + "a1B2" * 8
OTHER = "pg_test_" + "c3D4" * 8


def load(arguments: dict[str, str] | None = None, /, **environ: str) -> ServerConfig:
    return ServerConfig.load(arguments, environ=environ)


def test_the_defaults() -> None:
    config = load()
    assert (config.bind, config.port, config.storage_type) == ("0.0.0.0", 8080, "memory")
    assert (config.timeout, config.max_body_size) == (30, 16 * 1024 * 1024)
    assert (config.log_level, config.log_format) == ("info", "json")
    assert (config.no_cors, config.trusted_proxies, config.api_keys) == (False, 0, ())
    assert config.threads == config.effective_pool_size == 4


def test_arguments_win_over_the_environment_and_that_over_the_default() -> None:
    assert load(PERFGATE_PORT="1234").port == 1234
    assert load({"port": "5678"}, PERFGATE_PORT="1234").port == 5678


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bind", "::1", "::1"),
        ("port", "0", 0),
        ("storage_type", "sqlite", "sqlite"),
        ("timeout", "2.5", 2.5),
        ("log_level", "TRACE", "trace"),
        ("log_format", "pretty", "pretty"),
        ("log_format", "PRETTY", "pretty"),
        ("workers", "1", 1),
        ("threads", "16", 16),
        ("max_body_size", "65536", 65536),
        ("max_body_size", "16MiB", 16 * 2**20),
        ("max_body_size", "16 MB", 16 * 2**20),
        ("max_body_size", "64k", 64 * 2**10),
        ("trusted_proxies", "1", 1),
        ("no_cors", "true", True),
        ("no_cors", "false", False),
        ("no_cors", "0", False),
    ],
)
def test_every_setting_has_a_variable_with_its_name(name: str, text: str, value: Any) -> None:
    assert getattr(load(**{f"PERFGATE_{name.upper()}": text}), name) == value
    assert getattr(load({name: text}), name) == value


def test_no_setting_is_without_a_variable() -> None:
    named = {setting.name for setting in fields(ServerConfig) if setting.metadata}
    assert {setting.name for setting in fields(ServerConfig)} - named == {"api_keys"}
    for setting in fields(ServerConfig):
        if setting.name != "api_keys":
            assert setting.metadata["env"] == f"PERFGATE_{setting.name.upper()}"


def test_what_kubernetes_makes_of_a_service_named_perfgate_is_ignored() -> None:
    assert load(PERFGATE_PORT="tcp://10.0.0.1:8080").port == 8080


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load(PERFGATE_PORT="", PERFGATE_API_KEYS=" ", PERFGATE_NO_CORS="") == load()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": "http"}, "--port: must be a whole number, not 'http'"),
        ({"port": ""}, "--port"),
        ({"port": "65536"}, "65535"),
        ({"port": "-1"}, "--port"),
        ({"port": "٣"}, "--port"),
        ({"workers": "9" * 400}, "--workers: must be a whole number"),  # more than a float holds
        ({"timeout": "0"}, "timeout"),
        ({"timeout": "nan"}, "--timeout"),
        ({"timeout": "1e9"}, "--timeout"),
        ({"storage_type": "mysql"}, "memory, sqlite, postgres"),
        ({"storage_type": "postgres"}, "postgresql://"),
        ({"log_level": "loud"}, "trace, debug, info, warn, error"),
        ({"log_format": "xml"}, "json, pretty"),
        ({"workers": "0"}, "workers"),
        ({"workers": "2"}, "one process"),
        ({"threads": "x"}, "--threads"),
        ({"max_body_size": "lots"}, "--max-body-size"),
        ({"max_body_size": "16\u212aiB"}, "--max-body-size"),  # the sign for Kelvin
        ({"max_body_size": "1"}, "max body size"),
        ({"max_body_size": "9" * 400}, "--max-body-size: must be a number of bytes"),
        ({"threads": "0"}, "threads"),
        (
            {"storage_type": "postgres", "database_url": "postgresql://h/d", "pool_size": "0"},
            "pool",
        ),
        ({"trusted_proxies": "yes"}, "--trusted-proxies"),
        ({"trusted_proxies": "17"}, "trusted proxies"),
        ({"no_cors": "maybe"}, "true or false"),
        ({"bind": ""}, "bind"),
        ({"storage_type": "sqlite", "database_url": ""}, "empty"),
        ({"storage_type": "sqlite", "database_url": " "}, "empty"),
        ({"storage_type": "sqlite", "database_url": ":memory:"}, "--storage-type memory"),
        ({"storage_type": "sqlite", "database_url": "sqlite:///x.db"}, "plain path"),
        ({"storage_type": "sqlite", "database_url": "file:x.db"}, "plain path"),
        ({"storage_type": "sqlite", "database_url": "postgres://u@h/d"}, "--storage-type postgres"),
        ({"database_url": "postgresql://u@h/d"}, "--storage-type postgres"),
        ({"storage_type": "postgres", "database_url": "postgresql://u@h/d\r"}, "control character"),
        ({"storage_type": "postgres", "database_url": "postgresql://u@h/d "}, "white space"),
        ({"storage_type": "sqlite", "database_url": "a\0b"}, "control character"),
        ({"storage_type": "sqlite", "database_url": "a\x7fb"}, "control character"),
        ({"storage_type": "sqlite", "database_url": "a.db\r"}, r"'a.db\r': with quotes or"),
        ({"storage_type": "sqlite", "database_url": " a.db"}, "' a.db'"),
        ({"storage_type": "sqlite", "database_url": "a.db "}, "white space around it"),
        ({"storage_type": "sqlite", "database_url": '"a b.db"'}, "with quotes"),
        ({"storage_type": "sqlite", "database_url": "'a.db'"}, "with quotes"),
        ({"database_url": "x.db"}, "did you mean --storage-type sqlite"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_wrong(
    arguments: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "least", "most", "beyond"),
    [
        ("port", "0", "65535", ["65536"]),
        ("timeout", "0.1", "3600", ["0.09", "3601"]),
        ("workers", "1", "512", ["0", "513"]),
        ("threads", "1", "512", ["0", "513"]),
        ("pool_size", "1", "512", ["0", "513"]),
        ("max_body_size", "1024", "1GiB", ["1023", "1073741825"]),
        ("trusted_proxies", "0", "16", ["17"]),
    ],
)
def test_a_number_may_be_as_small_and_as_large_as_its_limits(
    name: str, least: str, most: str, beyond: list[str]
) -> None:
    for text in (least, most):
        load({name: text, "storage_type": "sqlite"})
    for text in beyond:
        said = f"^{name.replace('_', ' ')} must be an? [a-z]+ from "
        with pytest.raises(ConfigError, match=said):
            load({name: text, "storage_type": "sqlite"})


def test_only_a_port_may_be_what_kubernetes_makes_of_a_service() -> None:
    """Anything else was meant, and must not give way to a default."""
    with pytest.raises(ConfigError, match="PERFGATE_PORT: must be a whole number"):
        load(PERFGATE_PORT="http://10.0.0.1:8080")
    with pytest.raises(ConfigError, match="plain path"):
        load(PERFGATE_STORAGE_TYPE="sqlite", PERFGATE_DATABASE_URL="tcp://10.0.0.1:5432")


def test_an_environment_that_is_given_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFGATE_PORT", "1234")
    assert ServerConfig.load(environ={}).port == 8080
    assert ServerConfig.load().port == 1234


def test_a_file_of_keys_may_be_of_windows_and_hold_comments_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(f"\ufeffviewer:{KEY}\r\n  # {OTHER} is to go\r\n".encode())
    (key,) = ServerConfig.load(api_keys_files=[str(path)], environ={}).api_keys
    assert key.role is Role.VIEWER


def test_an_option_for_a_file_of_keys_that_is_empty_is_refused() -> None:
    """As from a script whose variable is not set: it is no wish for a made-up key."""
    with pytest.raises(ConfigError, match="^--api-keys-file: cannot read ''"):
        ServerConfig.load(api_keys_files=[""], environ={})


def test_a_file_of_keys_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"viewer:\xff")
    with pytest.raises(ConfigError, match=f"{path}.*UTF-8"):
        ServerConfig.load(api_keys_files=[str(path)], environ={})


def test_an_error_names_the_variable_it_comes_from() -> None:
    with pytest.raises(ConfigError, match="^PERFGATE_PORT: "):
        load(PERFGATE_PORT="http")


def test_an_empty_database_variable_is_refused_where_data_would_go_astray() -> None:
    with pytest.raises(ConfigError, match="empty"):
        load(PERFGATE_STORAGE_TYPE="sqlite", PERFGATE_DATABASE_URL="")


def test_another_databases_password_is_not_shown() -> None:
    config = {"storage_type": "sqlite", "database_url": "postgresql://u:hunter2@h/d"}
    with pytest.raises(ConfigError) as error:
        load(config)
    assert "hunter2" not in str(error.value)


def test_a_variable_that_is_nearly_one_of_ours_or_its_beginning_is_told() -> None:
    """The client's own, and those that Kubernetes sets for a service, are none."""
    meant = {
        "PERFGATE_STORAGETYPE": "PERFGATE_STORAGE_TYPE",
        "PERFGATE_DATABASE_URI": "PERFGATE_DATABASE_URL",
        "PERFGATE_APIKEYS": "PERFGATE_API_KEYS",
        "PERFGATE_API_KEY_FILE": "PERFGATE_API_KEYS_FILE",
        "PERFGATE_PORTT": "PERFGATE_PORT",
        "PERFGATE_BODY_SIZE": "PERFGATE_MAX_BODY_SIZE",
        "PERFGATE_STORAGE": "PERFGATE_STORAGE_TYPE",
        "PERFGATE_DATABASE": "PERFGATE_DATABASE_URL",
        "PERFGATE_LOG": "PERFGATE_LOG_FORMAT or PERFGATE_LOG_LEVEL",
        "perfgate_api_keys": "PERFGATE_API_KEYS",
        "\ufeffPERFGATE_STORAGE_TYPE": "PERFGATE_STORAGE_TYPE",
    }
    others = ["PERFGATE_URL", "PERFGATE_KEY", "PERFGATE_SERVICE_PORT", "PERFGATE_PORT_8080_TCP"]
    others += ["PERFGATE_TIMEOUT", "PERFGATE_API_KEYS", "PATH", "XPERFGATE_PORT"]
    assert misspelt([*meant, *others]) == [
        f"{name} is not a perfgate-server variable: did you mean {meant[name]}?"
        for name in sorted(meant)
    ]


def test_the_clients_variable_is_no_mistake_but_is_told_from_ours() -> None:
    assert misspelt(["PERFGATE_API_KEY"]) == [
        "PERFGATE_API_KEY is the perfgate client's key; the server's are PERFGATE_API_KEYS"
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"port": None},
        {"port": "80"},
        {"timeout": None},
        {"threads": None},
        {"threads": True},
        {"workers": 2.5},
    ],
)
def test_a_program_that_gives_what_is_no_number_is_told(given: Any) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must be an? [a-z]+ from"):
        ServerConfig(**given)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u:hunter2@h:5433/d?sslmode=require", "postgresql://u@h:5433/d"),
        ("postgresql://u:hunter2@a:1,b:2/d?x=hunter2", "postgresql://u@a:1,b:2/d"),
        ("postgresql://u:hunter2@/d?host=a,b&password=hunter2", "postgresql://u@a,b/d"),
        ("postgresql://u:hunter2@[::1]:5433/d", "postgresql://u@[::1]:5433/d"),
        ("postgresql://u:hunter2/3@h/d", "postgresql://…"),
        # libpq takes these for a part of the password, and others for the end of the host.
        ("postgresql://u:1234#secret@h/d", "postgresql://…"),
        ("postgresql://u:1234?secret@h/d", "postgresql://…"),
        ("postgresql://u:1234/secret@h/d", "postgresql://…"),
        ("postgresql://u:1234@secret@h/d", "postgresql://u@h/d"),
        ("postgresql://u:hunter2/d", "postgresql://…"),  # its host was forgotten
    ],
)
def test_where_a_database_is_is_shown_without_the_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_where_a_database_is_is_shown_as_it_is_written() -> None:
    shown = ServerConfig(storage_type="sqlite", database_url="/ü/perfgate.db").shown_location
    assert shown == "/ü/perfgate.db"
    unseen = ServerConfig(storage_type="sqlite", database_url="/\u202e/perfgate.db")
    assert unseen.shown_location == r"/\u202e/perfgate.db"


def test_only_postgres_has_a_pool() -> None:
    """In SQLite each thread has a connection, and one of them is kept for reads."""
    threads, pool = {"threads": "3"}, {"pool_size": "16"}
    postgres = {"storage_type": "postgres", "database_url": "postgresql://h/d"}
    assert load(threads | pool | postgres).effective_pool_size == 16
    assert load(threads | postgres).effective_pool_size == 3
    assert load(threads | pool | {"storage_type": "sqlite"}).effective_pool_size == 3


def test_the_url_of_postgres_may_begin_as_others_write_it() -> None:
    given = {"storage_type": "postgres", "database_url": "postgres://u:hunter2@h/d"}
    assert load(given).location == given["database_url"]
    assert load(given).shown_location == "postgres://u@h/d"


def test_keys_from_all_places_add_up(tmp_path: Path) -> None:
    third, fourth, fifth = KEY + "3", KEY + "4", KEY + "5"
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    three.write_text(f"contributor:{fifth}")
    one.write_text(f"# comment\n\n  viewer:{third}  \r\n")
    two.write_text(f"viewer:{fourth}:web:x{{1,2}},y")
    config = ServerConfig.load(
        api_keys=[f"admin:{KEY}"],
        api_keys_files=[str(one), str(three)],
        environ={
            "PERFGATE_API_KEYS": f"viewer:{OTHER}, promoter:{OTHER}2",
            "PERFGATE_API_KEYS_FILE": str(two),
        },
    )
    roles = [key.role for key in config.api_keys]
    assert roles[:4] == [Role.ADMIN, Role.VIEWER, Role.PROMOTER, Role.VIEWER]
    assert roles[4:] == [Role.CONTRIBUTOR, Role.VIEWER]


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0c", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_comment_in_a_key_file(tmp_path: Path, end: str) -> None:
    """What nobody sees in an editor does not bring a key back that was commented out."""
    path = tmp_path / "keys"
    path.write_bytes(f"# was:{end}admin:{OTHER}\r\nviewer:{KEY}\r\n".encode())
    (key,) = ServerConfig.load(api_keys_files=[str(path)], environ={}).api_keys
    assert key.role is Role.VIEWER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"viewer:{KEY}\nadmin:short\n", "line 2"),
        (f"viewer:{KEY}\nadmin:{KEY}\n", f"the API key {id_of(digest(KEY))} is given twice"),
        ("# nothing\n", "no key"),
        ("", "no key"),
        (None, "No such file"),
    ],
)
def test_a_bad_key_file_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        ServerConfig.load(api_keys_files=[str(path)], environ={})
    assert "a1B2" not in str(error.value)


@pytest.mark.parametrize("text", [f"admin:{KEY},root:{OTHER}", "viewer:short", ""])
def test_a_bad_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="--api-keys: key 1: .*32 or more") as error:
        ServerConfig.load(api_keys=[text], environ={})
    assert "a1B2" not in str(error.value) and "c3D4" not in str(error.value)


def test_a_key_in_the_place_of_another_setting_is_not_shown() -> None:
    for name in ("PERFGATE_PORT", "PERFGATE_STORAGE_TYPE", "PERFGATE_API_KEYS"):
        text = f"viewer:{KEY}:p:(?P={OTHER})" if name == "PERFGATE_API_KEYS" else KEY
        with pytest.raises(ConfigError) as error:
            ServerConfig.load(environ={name: text})
        assert "a1B2" not in str(error.value) and "c3D4" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        ServerConfig().api_key(KEY, OTHER)  # type: ignore[arg-type]
    assert "c3D4" not in str(error.value)


def test_keys_can_be_added_in_python() -> None:
    config = ServerConfig().api_key(KEY, Role.ADMIN).api_key(OTHER, Role.VIEWER, "web", "io/.*")
    assert [key.role for key in config.api_keys] == [Role.ADMIN, Role.VIEWER]
    assert config.api_keys[1].sees("io/x") and not config.api_keys[1].sees("cpu")
    assert KEY not in repr(config)
    word: Any = "viewer"  # of a caller whom no types are checked for: each request was a 500
    assert ServerConfig().api_key(KEY, word).api_keys[0].role is Role.VIEWER
    for key, role in ((KEY, Role.VIEWER), ("x", Role.ADMIN), ("pg_test_" + 32 * "x", "root")):
        with pytest.raises(ConfigError):
            config.api_key(key, role)  # type: ignore[arg-type]


def test_a_key_is_made_only_where_none_is_given() -> None:
    config, key = ServerConfig().with_generated_key()
    assert key is not None and config.api_keys[0].role is Role.ADMIN
    assert config.with_generated_key() == (config, None)


def test_memory_gets_one_worker_and_sqlite_as_many_as_are_asked_for() -> None:
    assert ServerConfig().effective_workers == 1
    assert ServerConfig(storage_type="sqlite", workers=3).effective_workers == 3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("65536B", 65536),
        ("64k", 2**16),
        ("64KiB", 2**16),
        ("2MB", 2**21),
        ("2 MiB", 2**21),
        ("1G", 2**30),
        ("1GiB", 2**30),
    ],
)
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert load(PERFGATE_MAX_BODY_SIZE=text).max_body_size == size


@pytest.mark.parametrize(
    ("yes", "no"), [("true", "false"), ("1", "0"), ("yes", "no"), ("on", "off"), ("TRUE", "False")]
)
def test_a_switch_is_on_or_off(yes: str, no: str) -> None:
    assert load(PERFGATE_NO_CORS=yes).no_cors is True
    assert load(PERFGATE_NO_CORS=no).no_cors is False


@pytest.mark.parametrize("timeout", [math.nan, math.inf, -math.inf, 10**400])
def test_what_no_clock_can_count_is_no_time(timeout: float) -> None:
    with pytest.raises(ConfigError, match="^timeout must be an? [a-z]+ from 0.1 to 3600"):
        ServerConfig(timeout=timeout)


def test_a_configuration_does_not_show_its_secrets() -> None:
    config = ServerConfig(storage_type="postgres", database_url="postgresql://u:hunter2@h/d")
    assert "hunter2" not in repr(config)


def test_a_large_machine_gets_eight_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perfgate_server.config._cores", lambda: 64)
    assert ServerConfig(storage_type="sqlite").effective_workers == 8


def test_there_are_as_many_workers_as_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by `taskset`, or in a container: the machine may have more."""
    for cores in ({5}, {1, 3, 7}):
        monkeypatch.setattr("os.sched_getaffinity", {0: cores}.get, raising=False)
        assert ServerConfig(storage_type="sqlite").effective_workers == len(cores)


def test_where_nobody_knows_which_cores_may_be_used_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS."""
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    for cores, workers in ((3, 3), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert ServerConfig(storage_type="sqlite").effective_workers == workers
