"""The example scripts do what they say, and tell by their exit status what came of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import (
    KEYS,
    ROOT,
    environment,
    free_port,
    not_installed,
    perfgate_server,
    receipt,
    serving,
)

MEASURE = ROOT / "examples" / "measure.py"
#: The scripts that ask the server one thing, and try again.
ASKING = ("upload-baseline.sh", "fetch-baseline.sh", "gate.sh")
#: The pauses of the scripts, and shorter ones: they try again just as often.
PAUSES, NO_PAUSES = "in 2 4 8 16 0;", "in 0 0 0 0 0;"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The folder of the examples' scripts, which do not pause."""
    (tmp_path / "scripts").mkdir()
    for name in ASKING:
        text = (ROOT / "examples" / name).read_text()
        assert text.count(PAUSES) == 1
        (tmp_path / "scripts" / name).write_text(text.replace(PAUSES, NO_PAUSES))
    return tmp_path / "scripts"


def test_each_script_asks_as_the_others_do() -> None:
    """It is copied alone, and so has all that it needs."""
    texts = [(ROOT / "examples" / name).read_text() for name in ASKING]
    assert len({text[text.index("ask() {") : text.index("\n}\n")] for text in texts}) == 1


def test_the_ci_scripts_work_and_tell_by_their_exit_status(tmp_path: Path, scripts: Path) -> None:
    """Uploaded, uploaded again, refused; fetched, none yet, refused, down."""
    (tmp_path / "run.json").write_text(json.dumps(receipt()))
    with serving(perfgate_server(), tmp_path) as server:
        variables = {
            "PERFGATE_URL": server.url,
            "PERFGATE_KEY": KEYS["contributor"],
            "PROJECT": "p",
            "BENCHMARK": "tests/io[gzip]",
            "GIT_SHA": "abc123",
            "GIT_REF": "refs/heads/main",
        }

        def run(script: str, **changed: str) -> int:
            return subprocess.run(
                ["sh", scripts / script],
                capture_output=True,
                cwd=tmp_path,
                env=environment(**(variables | changed)),
            ).returncode

        assert run("fetch-baseline.sh") == 3
        assert run("upload-baseline.sh") == 0
        assert run("upload-baseline.sh") == 0
        assert run("fetch-baseline.sh") == 0
        assert json.loads((tmp_path / "baseline.json").read_text()) == receipt()
        assert run("upload-baseline.sh", PERFGATE_KEY=KEYS["viewer"]) not in (0, 3)
        assert run("fetch-baseline.sh", PERFGATE_KEY="wrong") not in (0, 3)
        for name in ("", ".", "..", "a/../b", "./b", "../../other/baselines/b"):
            assert run("fetch-baseline.sh", BENCHMARK=name) not in (0, 3)
            assert run("upload-baseline.sh", BENCHMARK=name, GIT_SHA="dots") not in (0, 3)
        for url in (f"{server.url}/wrong", "http://[1"):
            assert run("fetch-baseline.sh", PERFGATE_URL=url, BENCHMARK="other") not in (0, 3)
        # The one of another benchmark, or of last week, is not to be compared with.
        assert not (tmp_path / "baseline.json").exists()
        odd = {"GIT_SHA": "1.0+b5", "GIT_REF": "refs/heads/c++#1&é", "BENCHMARK": "odd"}
        assert run("upload-baseline.sh", **odd, PERFGATE_URL=f"{server.url}/") == 0
        assert run("fetch-baseline.sh", **odd, PERFGATE_URL=f"{server.url}/") == 0
        odd_record = json.loads(server.request("GET", "/projects/p/baselines/odd/latest")[2])
        assert odd_record["git_ref"] == odd["GIT_REF"]
        assert odd_record["git_sha"] == odd_record["version"] == odd["GIT_SHA"]
        # curl would end the URL there, and v1 be taken for good.
        assert run("upload-baseline.sh", GIT_SHA="v1#2", BENCHMARK="odd") == 1
        (tmp_path / "run.json").write_text(json.dumps(receipt(wall_ms=7)))
        # A job that is run again measures again; the newest main is not an old commit.
        assert run("upload-baseline.sh") == 0
        with redirecting(server.url) as url:
            assert run("upload-baseline.sh", PERFGATE_URL=url, GIT_SHA="new") not in (0, 3)
            assert run("fetch-baseline.sh", PERFGATE_URL=url) not in (0, 3)
        with answering(200, "<html>Sign in</html>") as url:
            assert run("upload-baseline.sh", PERFGATE_URL=url) not in (0, 3)
            assert run("fetch-baseline.sh", PERFGATE_URL=url) not in (0, 3)
        with answering(409, "<html>Conflict</html>") as url:
            assert run("upload-baseline.sh", PERFGATE_URL=url) not in (0, 3)
        cut = json.dumps(receipt() | {"cut": "perfgate.run.v1"})[:-1]
        for text in ("", cut, cut + "}", cut + "\n"):
            with answering(200, text) as url:
                assert run("fetch-baseline.sh", PERFGATE_URL=url) not in (0, 3)
        assert {path.name for path in tmp_path.glob("*.json*")} == {"run.json"}
        record = json.loads(server.request("GET", "/projects/p/baselines/tests/io[gzip]/latest")[2])
        assert record["git_ref"] == "refs/heads/main"
        assert record["receipt"] == receipt()
        server.stop()
        down = {"PERFGATE_URL": f"http://127.0.0.1:{free_port()}"}
        assert run("fetch-baseline.sh", **down) not in (0, 3)


def test_what_stands_in_a_curlrc_changes_no_exit_status(tmp_path: Path, scripts: Path) -> None:
    (tmp_path / ".curlrc").write_text("fail-with-body\ninclude\nlocation\nrequest = GET\n")
    (tmp_path / "run.json").write_text(json.dumps(receipt(wall_ms=100)))
    with serving(perfgate_server(), tmp_path) as server:
        variables = environment(
            HOME=str(tmp_path),
            PERFGATE_URL=server.url,
            PERFGATE_KEY=KEYS["contributor"],
            PROJECT="p",
            BENCHMARK="b",
            GIT_SHA="v1",
            GIT_REF="refs/heads/main",
        )

        def run(script: str) -> int:
            command = ["sh", str(scripts / script)]
            return subprocess.run(
                command, capture_output=True, cwd=tmp_path, env=variables
            ).returncode

        assert run("fetch-baseline.sh") == run("gate.sh") == 3
        assert run("upload-baseline.sh") == run("fetch-baseline.sh") == 0
        assert json.loads((tmp_path / "baseline.json").read_text()) == receipt(wall_ms=100)
        (tmp_path / "run.json").write_text(json.dumps(receipt(wall_ms=900)))
        assert (run("upload-baseline.sh"), run("gate.sh")) == (0, 1)


@pytest.mark.parametrize("before", ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_the_scripts_try_again_what_failed_on_the_way(
    tmp_path: Path, scripts: Path, before: str
) -> None:
    """curl's own --retry gives up where the answer breaks off, or there is none."""
    run = json.dumps(receipt())
    (tmp_path / "run.json").write_text(run)
    variables = {
        "PERFGATE_KEY": "k",
        "PROJECT": "p",
        "BENCHMARK": "b",
        "GIT_SHA": "v1",
        "GIT_REF": "refs/heads/main",
    }
    for script, text, line, status in (
        ("upload-baseline.sh", '{"etag":"x"}', "", 0),
        ("fetch-baseline.sh", run + "\n", "", 0),
        ("gate.sh", "**skip**: b\n", "Perfgate-Missing: benchmark", 3),
    ):
        with answering(200, text, line=line, before=[before] * 4) as url:
            result = subprocess.run(
                ["sh", scripts / script],
                cwd=tmp_path,
                env=environment(**variables, PERFGATE_URL=url),
            )
        assert result.returncode == status, script
    assert (tmp_path / "baseline.json").read_text() == run + "\n"


def test_the_gate_script_tells_each_outcome_by_its_exit_status(
    tmp_path: Path, scripts: Path
) -> None:
    """The verdict is on standard output, and all else on standard error."""
    with serving(perfgate_server(), tmp_path) as server:
        assert server.put("tests/io[gzip]", "v1?git_ref=c%2B%2B%231%26%C3%A9", receipt(99)) == 201
        variables = {
            "PERFGATE_URL": server.url,
            "PERFGATE_KEY": KEYS["viewer"],
            "PROJECT": "p",
            "BENCHMARK": "tests/io[gzip]",
        }

        def gate(wall_ms: int, *options: str, **changed: str) -> tuple[int, str, str]:
            (tmp_path / "run.json").write_text(json.dumps(receipt(wall_ms)))
            result = subprocess.run(
                ["sh", scripts / "gate.sh", *options],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment(**(variables | changed)),
            )
            return result.returncode, result.stdout, result.stderr

        for wall_ms, options, status, word, row in (
            (100, [], 0, "pass", "| `wall_ms` | 100 ms | 101 ms | +1.0 % | pass |"),
            (
                118,
                [],
                0,
                "warn",
                "| `wall_ms` | 100 ms | 119 ms | +19.0 % | warn, threshold 20 % |",
            ),
            (118, ["fail_on=warn"], 1, "warn", "warn, threshold 20 % |"),
            (
                149,
                [],
                1,
                "fail",
                "| `wall_ms` | 100 ms | 150 ms | +50.0 % | fail, threshold 20 % |",
            ),
            (149, ["threshold=0.6", "noise=off"], 0, "pass", "| +50.0 % | pass |"),
            (
                149,
                ["against=git_ref:c++#1&é,latest"],
                1,
                "fail",
                "| +50.0 % | fail, threshold 20 % |",
            ),
        ):
            code, output, errors = gate(wall_ms, *options)
            assert (code, errors) == (status, "")
            assert output.startswith(f"**{word}**: `tests/io[gzip]` of `p` against `v1` (")
            assert row in output
        # The baseline is the sent receipt itself, or there is none at all.
        for wall_ms, changed in ((99, {}), (149, {"BENCHMARK": "other"})):
            code, output, errors = gate(wall_ms, **changed)
            assert (code, errors) == (3, "")
            assert output.startswith("**skip**: ") and "no baseline was found" in output
        assert gate(149, "on_missing=fail", BENCHMARK="other")[0] == 1
        # There are baselines, or one was found, and yet nothing was compared: no new benchmark.
        for option, said in (
            ("against=git_ref:mian", "no baseline was found"),
            ("metrics=energy_uj", "no metric could be judged"),
        ):
            code, output, errors = gate(149, option)
            assert (code, errors) == (2, "")
            assert said in output
        assert gate(99, PERFGATE_URL=f"{server.url}/")[0] == 3
        for options, changed, said in (
            ([], {"PERFGATE_KEY": "wrong"}, "UNAUTHORIZED"),
            ([], {"PROJECT": ".p"}, "VALIDATION_ERROR"),
            ([], {"BENCHMARK": "a/../tests/io[gzip]"}, "VALIDATION_ERROR"),
            (["threshhold=0.1"], {}, "threshhold"),
            (["threshold=0.6&noise=off"], {}, "threshold: Must be a number"),
            (["threshold=0.6", "fail_on"], {}, "'fail_on'"),
            (["threshold=0.6", ""], {}, "''"),
            ([], {"PERFGATE_URL": f"{server.url}/wrong"}, f"HTTP 404 from {server.url}/wrong"),
            ([], {"PERFGATE_KEY": ""}, "PERFGATE_KEY"),
            ([], {"PERFGATE_URL": f"http://127.0.0.1:{free_port()}"}, "curl: (7)"),
        ):
            code, output, errors = gate(100, *options, **changed)
            assert (code, output) == (2, "")
            assert said in errors
        with redirecting(server.url) as url:
            assert gate(100, PERFGATE_URL=url)[::2] == (2, f"HTTP 301 from {url}:\n")
        # Another gate may run beside it, and so it writes nothing there.
        assert not [*tmp_path.glob("*.md"), *tmp_path.glob("answer*")]


def test_what_measure_py_prints_is_a_receipt(tmp_path: Path) -> None:
    def measured(*command: str) -> tuple[int, Any]:
        script = [sys.executable, str(MEASURE), "a/b", "3", *command]
        result = subprocess.run(script, stdout=subprocess.PIPE)
        return result.returncode, json.loads(result.stdout)

    with serving(perfgate_server(), tmp_path) as server:
        status, value = measured("sh", "-c", "sleep 0.1 # caf\udce9")  # a byte that is not UTF-8
        assert status == 0 and server.put("a/b", "v1", value) == 201
        assert 100 <= value["stats"]["wall_ms"]["median"] < 1000
        status, value = measured("false")
        assert status == 1 and server.put("a/b", "v2", value) == 201
        path = "/projects/p/baselines/a/b/compare"
        _, headers, body = server.request("POST", path, json.dumps(value).encode())
        assert (headers["perfgate-verdict"], json.loads(body)["verdict"]["status"]) == ("fail",) * 2


def test_measure_py_hears_of_a_failure_also_where_a_daemon_had_signals_ignored() -> None:
    program = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, str(MEASURE), "a", "1", "false"]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 1
    assert json.loads(result.stdout)["samples"][0]["exit_code"] == 1


@pytest.mark.parametrize(
    "arguments", [["b", "3", "/nowhere"], ["b", "²", "true"], ["b", "0", "true"]]
)
def test_measure_py_says_in_one_line_what_is_wrong(arguments: list[str]) -> None:
    script = [sys.executable, str(MEASURE), *arguments]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r"(usage|cannot run /nowhere): .*\n", result.stderr)


def test_the_workflow_lets_a_new_benchmark_through_and_says_so(tmp_path: Path) -> None:
    workflow = (ROOT / "examples" / "github-actions.yml").read_text()
    step = re.search(r"run: \|\n((?: {10}.*\n)+)", workflow)
    assert step is not None
    # As GitHub runs what has `shell: bash`.
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", textwrap.dedent(step[1])]
    for gate_status, status, said in ((0, 0, ""), (1, 1, ""), (2, 2, ""), (3, 0, "::warning::b ")):
        (tmp_path / "gate.sh").write_text(f"#!/bin/sh\necho verdict\nexit {gate_status}\n")
        (tmp_path / "gate.sh").chmod(0o755)
        variables = environment(BENCHMARK="b", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
        result = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        assert (result.returncode, result.stderr) == (status, "")
        assert result.stdout.startswith("verdict\n") and said in result.stdout
        assert (tmp_path / "summary").read_text().endswith("verdict\n")


@pytest.mark.parametrize("page", [1000, 2])
def test_the_deletion_of_old_uploads_tells_by_its_exit_status(tmp_path: Path, page: int) -> None:
    if shutil.which("jq") is None:
        not_installed("jq")
    text = (ROOT / "examples" / "retention.sh").read_text()
    assert text.count("limit=1000") == 1
    script = tmp_path / "retention.sh"
    script.write_text(text.replace("limit=1000", f"limit={page}"))
    (tmp_path / ".curlrc").write_text("fail\n")
    with serving(perfgate_server(), tmp_path) as server:
        for benchmark, version in (("io[gzip]", "v1"), ("other", "v1"), ("io[gzip]", "v2")):
            assert server.put(benchmark, version, receipt()) == 201
        assert server.put("io[gzip]", "v3", receipt()) == 201
        path = "/projects/p/baselines/of-refs/versions"
        for version, ref in (("v1", "main"), ("v2", "main"), ("v3", "pr"), ("v4", "pr")):
            name = f"refs/heads/{ref}"
            uploaded = server.request("PUT", f"{path}/{version}?git_ref={name}", receipt())
            assert uploaded[0] == 201

        def delete(key: str, url: str = server.url, **more: str) -> tuple[int, str]:
            command = ["sh", str(script), "2126-01-01T00:00:00Z"]
            more |= {"HOME": str(tmp_path), "PROJECT": "p"}
            variables = environment(PERFGATE_URL=url, PERFGATE_KEY=key, **more)
            result = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, env=variables
            )
            return result.returncode, result.stdout + result.stderr

        for key, said in ((KEYS["viewer"], "FORBIDDEN"), ("wrong", "UNAUTHORIZED")):
            status, output = delete(key)
            assert status == 1 and said in output and "KEEP_REF" not in output
        assert delete(KEYS["admin"], f"http://127.0.0.1:{free_port()}")[0] == 1
        with redirecting(server.url) as url:  # which has no body, and so no records
            assert delete(KEYS["admin"], url)[0] == 1
        for text in ("", "<html>Sign in</html>", "{}"):
            for more in ({}, {"KEEP_REF": ""}):
                with answering(200, text) as url:
                    assert delete(KEYS["admin"], url, **more)[0] == 1
        status, output = delete(KEYS["admin"], KEEP_REF="main")
        assert status == 1 and "nothing has the git_ref main" in output
        for count in (4, 0):
            status, output = delete(KEYS["admin"])
            assert (status, output.count('"deleted":true')) == (0, count)
        # Without its newest baseline, or that of main, a gate would have nothing to compare with.
        left = {"io[gzip]": ["v3"], "other": ["v1"], "of-refs": ["v4", "v2"]}
        for benchmark, versions in left.items():
            status, _, body = server.request("GET", f"/projects/p/baselines/{benchmark}/versions")
            kept = [entry["version"] for entry in json.loads(body)["versions"]]
            assert (status, kept) == (200, versions)
        status, output = delete(KEYS["admin"], KEEP_REF="")
        assert (status, output.count('"deleted":true')) == (0, 1)  # main's in of-refs


@contextlib.contextmanager
def answering(
    status: int,
    text: str = "",
    location: str | None = None,
    line: str = "",
    before: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the URL of a server that answers the same to everything, after the parts of answers
    that stand in `before`; `line` is one of its head."""
    first = iter(before)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # in which it answers Expect, for which curl waits a second

        def answer(self) -> None:
            self.close_connection = True
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            part = next(first, None)
            if part is not None:
                self.wfile.write(part.encode())
                return
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location + self.path)
            if line:
                self.flush_headers()
                self.wfile.write(f"{line}\r\n".encode())
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def redirecting(url: str) -> contextlib.AbstractContextManager[str]:
    """The URL of a server that sends everybody elsewhere, as many do from http to https."""
    return answering(301, location=url)


@pytest.mark.parametrize("space", ["", " ", "  ", "\t"])
@pytest.mark.parametrize("shell", ["sh", "bash -euo pipefail"])
def test_the_gate_script_reads_a_header_however_it_is_written_and_run(
    tmp_path: Path, space: str, shell: str
) -> None:
    """A proxy may write it otherwise, and who copies the script may add what stops it early."""
    (tmp_path / "run.json").write_text("{}")
    for line, verdict, status in (
        (f"Perfgate-Missing:{space}metric{space}", "**warn**", 2),
        (f"perfgate-missing:{space}benchmark{space}", "**skip**", 3),
        (f"Perfgate-Verdict:{space}pass", "**pass**", 0),
    ):
        with answering(200, f"{verdict} b of p\n", line=line) as url:
            result = subprocess.run(
                [*shell.split(), ROOT / "examples" / "gate.sh"],
                cwd=tmp_path,
                env=environment(PERFGATE_URL=url, PERFGATE_KEY="k", PROJECT="p", BENCHMARK="b"),
            )
        assert result.returncode == status
