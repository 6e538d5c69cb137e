"""Makes the dumps of the newest schema that `test_aged` keeps upgradable; run once a schema.

    python tests/dumps/make.py

For each database it fills a fresh one over the API with a few records of every kind, and writes
beside itself `sqlite-0001.sql`, a script that builds the same database again, and
`sqlite-0001.ndjson`, its export: what must be in it after every upgrade to come. A dump that was
released never changes.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from postgres_server import own_postgres  # noqa: E402
from support import KEYS, bearer, receipt  # noqa: E402

from perfgate_server import Role, ServerConfig, create_app, transfer  # noqa: E402
from perfgate_server.storage import migrate  # noqa: E402


def fill(config: ServerConfig) -> bytes:
    """Store records of every kind; return the storage's export."""
    for role, key in KEYS.items():
        config = config.api_key(key, Role(role))
    app = create_app(config)
    client = app.test_client()

    def send(method: str, path: str, body: Any, role: str, status: int = 201) -> None:
        answer = client.open(
            f"/projects/{path}",
            method=method,
            data=None if body is None else json.dumps(body),
            headers=bearer(role),
            content_type="application/json",
        )
        assert answer.status_code == status, answer.text

    odd = receipt(7, **{"x-unknown": [1e-7, 2**64, "naïve 🚀", None, {}]})
    many = "&".join(f"tag=t{number}" for number in range(3))
    ci = "?git_ref=refs/heads/main&git_sha=0a1b2c&tag=nightly&tag=gr%C3%B6%C3%9Fer&meta.runner=ci-7"
    io_test = "web/baselines/tests/test_io.py::test_read[gzip]"
    send("PUT", "web/baselines/api/list/versions/v1" + ci, receipt(), "contributor")
    send("PUT", f"web/baselines/api/list/versions/v2?{many}", receipt(101), "contributor")
    send("PUT", f"{io_test}/versions/v1?normalize=true", odd, "admin")
    envelope = {"benchmark": "api/list", "version": "v1", "receipt": odd}
    envelope["metadata"] = {"empty": "", "quote": "'\";--", "line": "a\nb"}
    send("POST", "cli/baselines", envelope, "contributor")
    send("POST", "cli/baselines", {"benchmark": "made", "receipt": receipt()}, "contributor")
    # Shared with its source, made anew, and one whose source is gone.
    promotion = {"from_version": "v1", "to_version": "prod", "tags": ["nightly", "blessed"]}
    send("POST", "web/baselines/api/list/promote", promotion, "promoter")
    normal = {"from_version": "v2", "to_version": "normal", "normalize": True, "git_sha": "f00"}
    send("POST", "web/baselines/api/list/promote", normal, "promoter")
    orphan = {"from_version": "v1", "to_version": "orphan"}
    send("POST", "cli/baselines/api/list/promote", orphan, "promoter")
    send("DELETE", "cli/baselines/api/list/versions/v1", None, "admin", 200)
    # The newest of all is deleted: its place in the order is not given again.
    send("PUT", "web/baselines/gone/versions/v1", receipt(), "contributor")
    send("DELETE", "web/baselines/gone/versions/v1", None, "admin", 200)
    for number, status in enumerate(("pass", "fail", "warn")):
        verdict: dict[str, Any]
        verdict = {"benchmark": "api/list", "run_id": f"r{number}", "status": status}
        verdict["counts"] = {"pass": 2, "warn": number, "fail": 0, "skip": 1}
        verdict["reasons"] = [f"wall_ms_{status}"] * number
        verdict |= {"git_ref": "größer", "wall_ms_cv": 0.3 * number} if number else {}
        send("POST", "web/verdicts", verdict, "contributor")
    storage = app.extensions["perfgate"].storage
    with contextlib.closing(storage):
        out = io.BytesIO()
        transfer.export(storage, out, lambda _: None)
    return out.getvalue()


def dump_sqlite() -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "perfgate.db"))
        export = fill(ServerConfig(storage_type="sqlite", database_url=path))
        with contextlib.closing(sqlite3.connect(path)) as db:
            return "\n".join(db.iterdump()) + "\n", export


def dump_postgres() -> tuple[str, bytes]:
    with own_postgres() as server, server.database() as url:
        export = fill(ServerConfig(storage_type="postgres", database_url=url))
        command = ["pg_dump", "--inserts", "--no-owner", "--no-privileges", url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Without comments, settings of the session, and psql's own commands.
    skipped = ("--", "SET ", "SELECT pg_catalog.set_config", "\\")
    lines = [line for line in text.splitlines() if line and not line.startswith(skipped)]
    return "\n".join(lines) + "\n", export


def main() -> None:
    for dialect, dump in (("sqlite", dump_sqlite), ("postgres", dump_postgres)):
        sql, export = dump()
        name = f"{dialect}-{len(migrate.load(dialect)):04}"
        (FOLDER / f"{name}.sql").write_text(sql, "utf-8")
        (FOLDER / f"{name}.ndjson").write_bytes(export)


if __name__ == "__main__":
    main()
