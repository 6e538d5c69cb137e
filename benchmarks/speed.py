"""How fast the server is, as ratios that hold on any machine.

    python benchmarks/speed.py [--pairs 5] [--seconds 3] [--rows 1000000] [PART ...]

Parts: `views` (each route against a bare Flask view that answers as many constant bytes under the
same gunicorn settings; for uploads it parses the JSON), `check` (checking a receipt against
json.loads), `scale` (the same request with 1,000,000 baselines stored and with 1,000), `process`
(start, import, memory). Without one: all. Both sides run in turn, with wrk on loopback, keep-alive,
8 connections, default settings, the access log on, SQLite on the disk of --folder. Figures are
medians of the pairs; the processor time is that of the workers for each request.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plans import fill
from side_by_side import (
    Load,
    Side,
    Table,
    bare,
    needs,
    pairs,
    receipt,
    service,
    write_json,
    wrk,
)

from perfgate_server import jsonio, records, schemas
from perfgate_server.storage import open_storage

BASELINES = "/projects/p/baselines"
SAMPLES = (5, 100, 1000)


# -- each route against the bare view


def views(options: Any, folder: Path) -> None:
    table = Table("Work", "per second", "bare view", "ratio", "µs of CPU", "bare view", "ratio")
    with bare(folder) as reference:

        def measure(ours: Side, name: str, load: Load, other: Load) -> None:
            found = pairs(
                lambda: wrk(ours, load, options.seconds),
                lambda: wrk(reference, other, options.seconds),
                options.pairs,
            )
            if found.errors:
                raise SystemExit(f"{name}: {found.errors} answers were errors")
            rates = f"{found.ours:,.0f}", f"{found.reference:,.0f}", f"{found.ratio:.2f}"
            times = f"{found.ours_us:.0f}", f"{found.reference_us:.0f}"
            table.row(name, *rates, *times, f"{found.reference_us / found.ours_us:.2f}")

        with service(folder, database="views.db") as ours:
            for name, load, other in _loads(ours, folder):
                measure(ours, name, load, other)
        with service(folder, "--log-level", "warn", database="views.db") as ours:
            path = f"{BASELINES}/latest5/latest"
            size = len(ours.request("GET", path)[1])
            name = "`latest`, 5 samples, `--log-level warn`"
            measure(ours, name, Load(path), Load(f"/bytes/{size}"))
        _store(folder / "pages.db", 10_000)
        with service(folder, database="pages.db") as ours:
            for name, query in (("with its total", ""), ("without", "?total=false")):
                size = len(ours.request("GET", BASELINES + query)[1])
                name = f"a page of 50 of 10,000, {name}"
                measure(ours, name, Load(BASELINES + query), Load(f"/bytes/{size}"))


def _loads(ours: Side, folder: Path) -> Iterator[tuple[str, Load, Load]]:
    for samples in SAMPLES:
        envelope = {"benchmark": f"latest{samples}", "receipt": receipt(samples)}
        ours.request("POST", BASELINES, envelope)
        path = f"{BASELINES}/latest{samples}/latest"
        headers, body = ours.request("GET", path)
        yield f"`latest`, {samples} samples", Load(path), Load(f"/bytes/{len(body)}")
        if samples == SAMPLES[0]:
            unchanged = Load(path, headers={"If-None-Match": headers["ETag"]})
            yield "`latest`, unchanged (304)", unchanged, Load("/unchanged")
    for samples in SAMPLES:
        sent = write_json(folder / "up.json", {"benchmark": "up", "receipt": receipt(samples)})
        answer = len(ours.request("POST", BASELINES, json.loads(sent.read_text()))[1])
        upload = Load(BASELINES, sent)
        yield f"upload, {samples} samples", upload, Load(f"/json/{answer}", sent)
    for number in range(20):
        version = {"benchmark": "gate", "receipt": receipt(5, 100 + number % 7)}
        ours.request("POST", BASELINES, version)
    for name, wall_ms in (("passes", 101), ("fails, 20 records of history", 300)):
        sent = write_json(folder / f"run{wall_ms}.json", receipt(5, wall_ms))
        path = f"{BASELINES}/gate/compare"
        answer = len(ours.request("POST", path, json.loads(sent.read_text()))[1])
        yield f"`compare` that {name}", Load(path, sent), Load(f"/json/{answer}", sent)


# -- checking a receipt


def check(options: Any, folder: Path) -> None:
    table = Table("Checking a receipt", "µs", "json.loads", "times")
    runs = {f"{samples} samples": receipt(samples) for samples in SAMPLES}
    runs["1,000 samples, of which half lack a member"] = lacking = receipt(1000)
    for sample in lacking["samples"][::2]:
        del sample["cpu_ms"]
    for name, run in runs.items():
        text = json.dumps({"benchmark": "b", "receipt": run}).encode()
        ours = _least(_checked, text)
        reference = _least(json.loads, text)
        table.row(name, f"{ours:.0f}", f"{reference:.0f}", f"{ours / reference:.1f}")


_upload_schema = schemas.UploadSchema()


def _checked(text: bytes) -> Any:
    """Do with an upload's body all that is done before it is stored."""
    return records.receipt_of(_upload_schema.load(jsonio.loads(text))["receipt"])


def _least(work: Callable[[bytes], Any], text: bytes) -> float:
    return min(timeit.repeat(lambda: work(text), number=20, repeat=20)) / 20 * 1e6


# -- very many baselines


def scale(options: Any, folder: Path) -> None:
    rows = f"{options.rows:,}"
    table = Table("Work", f"per second with {rows}", "with 1,000", "ratio", "one answer, ms")
    print(f"(filling a database with {rows} baselines)", file=sys.stderr)
    _store(folder / "many.db", options.rows, few=1000)
    _store(folder / "few.db", 1000, few=1)
    with service(folder, database="many.db") as many, service(folder, database="few.db") as few:
        for side in (many, few):
            # The benchmark with 10,000 versions, and one with this version alone.
            benchmark = "hot" if side is many else "one"
            side.request(
                "POST",
                BASELINES,
                {"benchmark": benchmark, "version": "newest", "receipt": receipt(5)},
            )
        for name, path, other, body in _scaled(many, few, folder, options.rows):
            ours, reference = Load(path, body), Load(other, body)
            found = pairs(
                functools.partial(wrk, many, ours, options.seconds),
                functools.partial(wrk, few, reference, options.seconds),
                options.pairs,
            )
            one = _milliseconds(many, path) if body is None else 0.0
            table.row(
                name,
                f"{found.ours:,.0f}",
                f"{found.reference:,.0f}",
                f"{found.ratio:.2f}",
                f"{one:.1f}" if body is None else "",
            )
        for name, query in (
            ("total of all", ""),
            ("`git_ref` of half, with total", "?git_ref=main"),
            ("`tags` of half, with total", "?tags=half"),
            ("`since` the half, with total", f"?since={_moment(options.rows // 2)}"),
        ):
            table.row(name, "", "", "", f"{_milliseconds(many, BASELINES + query):.1f}")


def _scaled(many: Side, few: Side, folder: Path, rows: int) -> Iterator[Any]:
    one, hot = f"{BASELINES}/one", f"{BASELINES}/hot"
    yield "`latest`, of 10,000 versions", f"{hot}/latest", f"{one}/latest", None
    yield "one of 10,000 versions", f"{hot}/versions/newest", f"{one}/versions/newest", None
    page = f"{BASELINES}?total=false"
    yield "a page of 50, in the middle, by cursor", _cursor(many, rows), _cursor(few, 1000), None
    since = f"since={_moment(rows - 1000)}"
    for query in (
        "git_ref=few",
        "git_sha=few",
        "tags=few",
        "benchmark=few/b",
        "benchmark_prefix=few/",
    ):
        yield (
            f"`{query.partition('=')[0]}`, 1,000 match",
            f"{page}&{query}",
            f"{page}&{query}",
            None,
        )
    other = f"since={_moment(0)}"
    yield "`since`, 1,000 match", f"{page}&{since}", f"{page}&{other}", None
    # Last: what is uploaded is newer than all that `since` should match.
    body = write_json(folder / "up.json", {"benchmark": "hot", "receipt": receipt(5)})
    yield "upload, 5 samples", BASELINES, BASELINES, body


def _cursor(side: Side, rows: int) -> str:
    """Return the path of a page in the middle of a project."""
    path = f"{BASELINES}?limit=1&total=false&offset={rows // 2}"
    link = side.request("GET", path)[0]["Link"]
    cursor = link.partition("cursor=")[2].partition(">")[0]
    return f"{BASELINES}?total=false&cursor={cursor}"


def _moment(number: int) -> str:
    """Return when `fill` says that the record of that number was made."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_767_225_600 + number))


def _milliseconds(side: Side, path: str) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        side.request("GET", path)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _store(path: Path, rows: int, few: int | None = None) -> None:
    """Fill a database. With `few`, the filters of `_scaled` match every `few`-th record."""
    storage: Any = open_storage("sqlite", str(path), pool_size=1)
    with contextlib.closing(storage):
        fill(storage, rows)
        if few is None:
            return
        with storage._engine.writing("p", "", time.monotonic() + 600) as db:
            chosen = f"project = 'p' AND seq % {few} = 0"
            db.execute(
                f"""DELETE FROM baseline_tags
                    WHERE seq IN (SELECT seq FROM baselines WHERE {chosen})"""
            )
            db.execute(
                f"""UPDATE baselines SET benchmark = 'few/b', git_ref = 'few', git_sha = 'few',
                    tags = '["few"]' WHERE {chosen}"""
            )
            db.execute(
                f"""INSERT INTO baseline_tags (project, tag, seq)
                    SELECT 'p', 'few', seq FROM baselines WHERE {chosen}"""
            )


# -- the process


def process(options: Any, folder: Path) -> None:
    table = Table("Process", "")
    for name, code in (
        ("`import perfgate_server`", "import perfgate_server"),
        ("an interpreter that imports nothing", "pass"),
    ):
        table.row(name, f"{_seconds([sys.executable, '-c', code]):.2f} s")
    began = time.perf_counter()
    with service(folder, database="start.db") as side:
        table.row("start to the first healthy answer", f"{time.perf_counter() - began:.2f} s")
        side.request("POST", BASELINES, {"benchmark": "b", "receipt": receipt(100)})
        body = write_json(folder / "up.json", {"benchmark": "b", "receipt": receipt(100)})
        resident = []
        for _ in range(4):
            wrk(side, Load(f"{BASELINES}/b/latest"), 6)
            wrk(side, Load(BASELINES, body), 3)
            wrk(side, Load(BASELINES), 3)
            resident.append(max(side.resident_mb()))
        count = sum(1 for line in side.log.open("rb") if b'"request"' in line)
        growth = ", ".join(f"{megabytes:.0f}" for megabytes in resident)
        table.row(f"a worker's memory on the way to {count:,} requests", f"{growth} MB")


def _seconds(command: list[str]) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


PARTS = {"views": views, "check": check, "scale": scale, "process": process}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the databases are")
    options = parser.parse_args()
    needs("wrk")
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            PARTS[part](options, Path(folder))
        print(flush=True)


if __name__ == "__main__":
    main()
