"""Rules that the source keeps: imports run one way, and the core stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from support import ROOT, environment

PACKAGE = ROOT / "perfgate_server"

#: A module, or the modules of a folder -> what of the package it may import.
ALLOWED = {
    "names": set(),
    "version": set(),
    "files": set(),
    "columns": set(),
    "jsonio": {"columns"},
    "gate": {"gate", "names", "summaries", "version"},
    "keys": {"names"},
    "fields": {"names"},
    "schemas": {"columns", "fields", "names"},
    "record_schemas": {"fields", "names", "schemas"},
    "summaries": {"columns", "jsonio", "names"},
    "queries": {"fields", "names"},
    "compare_query": {"fields", "gate", "names", "queries"},
    "config": {"keys", "terminal"},
    "terminal": {"keys"},
    "storage": {"files", "storage", "names"},
    "records": {"jsonio", "schemas", "storage", "summaries"},
    "lean": set(),
    "errors": {"fields", "jsonio", "keys", "lean", "storage"},
    "auth": {"errors", "keys", "names"},
    "logs": {"keys", "terminal"},
    "blueprints": {
        "auth",
        "blueprints",
        "errors",
        "fields",
        "jsonio",
        "keys",
        "lean",
        "queries",
        "record_schemas",
        "records",
        "schemas",
        "storage",
        "version",
        "compare_query",
        "gate",
        "summaries",
    },
    "app": {
        "auth",
        "blueprints",
        "config",
        "errors",
        "keys",
        "lean",
        "logs",
        "storage",
        "terminal",
    },
    "clients": set(),
    "refusals": {"errors"},
    "balance": set(),
    "worker": {"balance", "clients", "refusals"},
    "arbiter": {"balance", "worker"},
    "server": {"app", "arbiter", "config", "worker"},
    "wsgi": {"app", "arbiter", "config", "logs", "server", "storage", "terminal", "worker"},
    "transfer": {"fields", "jsonio", "record_schemas", "records", "schemas", "storage"},
    "cli": {"config", "files", "server", "storage", "terminal", "transfer", "version"},
    "__main__": {"cli"},
    "__init__": {"app", "config", "keys", "server", "storage"},
}

#: A module -> the libraries that it alone, of its kind, may not know.
FOREIGN = {
    "keys": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "jsonio": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "summaries": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "gate": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "fields": {"flask", "werkzeug", "gunicorn", "click"},
    "schemas": {"flask", "werkzeug", "gunicorn", "click"},
    "record_schemas": {"flask", "werkzeug", "gunicorn", "click"},
    "queries": {"flask", "werkzeug", "gunicorn", "click"},
    "compare_query": {"flask", "werkzeug", "gunicorn", "click"},
    "storage": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "config": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
    "records": {"flask", "werkzeug", "marshmallow", "gunicorn", "click"},
}


def part_of(path: Path) -> str:
    """Return the package, or the module beside the packages, that a file belongs to."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "perfgate_server":
            found |= {f"perfgate_server.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def own_imports(path: Path) -> set[str]:
    """Return the parts of the package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("perfgate_server.")}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    assert own_imports(path) <= ALLOWED[part], path
    assert not {name.split(".")[0] for name in imports(path)} & FOREIGN.get(part, set()), path


def test_no_import_is_allowed_that_nothing_needs() -> None:
    needed: dict[str, set[str]] = {part: set() for part in ALLOWED}
    for path in PACKAGE.rglob("*.py"):
        needed[part_of(path)] |= own_imports(path) - {part_of(path)}
    allowed = {part: others - {part} for part, others in ALLOWED.items()}
    assert needed == allowed


def test_the_core_installs_what_it_names_and_no_more() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split("\n")
    assert {line.split(" ")[0] for line in required if line} == {
        "flask",
        "gunicorn",
        "marshmallow",
        "click",
        "python-json-logger",
        "flask-cors",
    }


def test_importing_the_package_starts_nothing() -> None:
    """No thread, no file, no logging configuration."""
    code = (
        "import threading, logging, perfgate_server;"
        "assert threading.active_count() == 1;"
        "assert not logging.getLogger().handlers;"
        "import sys; loaded = set(sys.modules);"
        "assert not {'hypothesis', 'pytest', 'psycopg', 'gunicorn.arbiter'} & loaded;"
        "assert all(hasattr(perfgate_server, name) for name in perfgate_server.__all__);"
        "assert {*perfgate_server.__all__} < {*dir(perfgate_server)};"
        "assert not hasattr(perfgate_server, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
