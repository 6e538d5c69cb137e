"""The README is true: its commands run as printed, its tables are complete."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import Create
from support import (
    KEYS,
    ROOT,
    environment,
    free_port,
    perfgate_server,
    program,
    receipt,
    serving,
)
from test_examples import redirecting

from perfgate_server import ServerConfig
from perfgate_server.cli import command
from perfgate_server.compare_query import COMPARE_QUERY
from perfgate_server.errors import _CODES
from perfgate_server.gate.render import _WORDS
from perfgate_server.version import VERSION

README = (ROOT / "README.md").read_text("utf-8")

#: What differs from run to run, in what is printed as in what comes out.
VARYING = (
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r":[0-9a-f]{8}\b", ":KEYID"),
    (r"\b\d+ s old\b", "AGE"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "TIME"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def steps() -> Iterator[tuple[str, str]]:
    """Yield each command of the README's console blocks with the output printed below it."""
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = step.partition("\n")
            yield line, output


def masked(text: str) -> str:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text


def test_the_tour_runs_as_printed(tmp_path: Path) -> None:
    """Every command, in one shell, in the order of the README."""
    port = str(free_port())
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    found = list(steps())
    assert len(found) > 20
    script = "".join(f"{line}\necho; echo '=== {n}'\n" for n, (line, _) in enumerate(found))
    shell = subprocess.Popen(
        ["bash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment(
            PATH=f"{Path(program()).parent}:{os.environ['PATH']}",
            PERFGATE_PORT=port,
            PERFGATE_BIND="127.0.0.1",
        ),
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(script.replace(":8080", f":{port}") + "kill %1\n", 60)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    outputs = re.split(r"\n=== \d+\n", printed)
    for (line, expected), output in zip(found, outputs, strict=False):
        assert masked(output).strip() == masked(expected).strip(), line
    assert len(outputs) == len(found) + 1


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("sh", "upload-baseline.sh"),
        ("sh", "fetch-baseline.sh"),
        ("sh", "gate.sh"),
        ("yaml", "github-actions.yml"),
        ("nginx", "nginx.conf"),
        ("ini", "perfgate-server.service"),
    ],
)
def test_the_files_that_are_shown_are_the_files_that_are_there(language: str, name: str) -> None:
    assert (ROOT / "examples" / name).read_text("utf-8") in blocks(language)


def test_the_gate_in_one_line_takes_no_redirect_for_a_pass(tmp_path: Path) -> None:
    (line,) = re.findall(r"^\$ (curl --fail-with-body.*); echo", README, re.MULTILINE)
    (tmp_path / "run.json").write_text("{}")
    with redirecting("http://127.0.0.1:1") as url:
        script = f"as() {{ echo x; }}; B={url}; {line}"
        result = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True)
    assert result.returncode == 47


def test_the_gate_in_one_line_works_with_the_variables_of_the_scripts(tmp_path: Path) -> None:
    [line] = [block for block in blocks("sh") if block.startswith("curl --fail-with-body -L")]
    with serving(perfgate_server(), tmp_path) as server:
        assert server.put("b", "v1", receipt(99)) == 201
        for benchmark, wall_ms, status in (("b", 100, 0), ("b", 199, 22), ("other", 100, 22)):
            (tmp_path / "run.json").write_text(json.dumps(receipt(wall_ms)))
            variables = {"PERFGATE_URL": server.url, "PERFGATE_KEY": KEYS["viewer"]}
            variables |= {"PROJECT": "p", "BENCHMARK": benchmark}
            result = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env=environment(**variables), capture_output=True
            )
            assert result.returncode == status


def test_every_option_and_variable_stands_in_the_readme() -> None:
    for option in command.params:
        assert f"| `{option.opts[0]}`" in README, option
    for setting in fields(ServerConfig):
        assert f"`PERFGATE_{setting.name.upper()}`" in README
    assert "`PERFGATE_API_KEYS_FILE`" in README


def help_of(*command: str, option: str = "--help") -> str:
    """Return the help that a terminal of the common width shows."""
    arguments = [program(), *command, option]
    shown = environment(COLUMNS="80")
    return subprocess.run(arguments, capture_output=True, text=True, env=shown).stdout


def test_the_help_names_every_variable() -> None:
    text = help_of()
    for variable in re.findall(r"\| `(PERFGATE_\w+)` \|", README):
        assert re.search(rf"{variable}\b", text), variable


def test_the_help_of_the_commands_on_a_storage_says_which_they_take() -> None:
    for name in ("export", "import", "backup", "check"):
        text = help_of(name)
        assert re.search(r"PERFGATE_STORAGE_TYPE;\s+default:\s+sqlite\]", text), name


@pytest.mark.parametrize("command", [[], ["export"]], ids=["", "export"])
def test_the_short_option_for_help_shows_the_same(command: list[str]) -> None:
    shown = help_of(*command, option="-h")
    assert shown == help_of(*command) and shown.startswith("Usage: perfgate-server ")


def test_every_route_stands_in_the_readme(create: Create) -> None:
    app = create(ServerConfig())
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).removeprefix("/api/v1")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert f"| {method} | `{path}` |" in README


def test_every_option_of_a_comparison_stands_in_the_readme() -> None:
    for name, field in COMPARE_QUERY.fields.items():
        if field.data_key is None:
            assert f"| `{name}` |" in README
        else:
            assert f"`{field.data_key.partition('.')[0]}.METRIC`" in README


def test_every_reason_stands_in_the_readme() -> None:
    for reason in (*_WORDS, "host_mismatch", "METRIC_fail", "METRIC_warn", "METRIC_skip"):
        assert f"| `{reason}` |" in README


def test_every_code_stands_in_the_readme() -> None:
    for status, code in _CODES.items():
        if status not in (414, 422):  # no error of ours has these
            assert f"| {status} | `{code}` |" in README


def test_the_version_is_the_same_everywhere() -> None:
    assert f'"version":"{VERSION}"' in README
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.findall(r"^## \[(.*?)\]", changelog, re.MULTILINE)[0]
    assert newest in (VERSION, "Unreleased")


def test_links_lead_to_files_and_headings() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
