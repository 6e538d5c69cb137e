"""The wheel, in an empty environment: what people install is what was tested."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support import EVERY_KEY, ROOT, drive, serving


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it; return the folder of its programs."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: what git does not know is not in the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: the build must not depend on what lies about, nor leave anything.
    subprocess.run(["git", "clone", "-q", ROOT, folder / "source"], check=True)
    diff = ["git", "diff", "HEAD", "--binary"]
    changes = subprocess.run(diff, cwd=ROOT, capture_output=True, check=True)
    if changes.stdout:
        subprocess.run(["git", "apply"], cwd=folder / "source", input=changes.stdout, check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", f"{folder}", f"{folder}/source"]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    pip = [f"{folder}/venv/bin/python", "-I", "-m", "pip", "install", "-q", f"{wheel}"]
    subprocess.run(pip, check=True)
    return folder / "venv/bin"


def test_it_serves(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "perfgate-server"), "--port", "{port}", "--storage-type", "sqlite"]
    # Not what stands on the caller's path.
    with serving([*command, "--api-keys", EVERY_KEY], tmp_path, PYTHONPATH="") as server:
        drive(server)
        assert server.stop() == 0


def test_it_brings_only_what_it_needs(installed: Path) -> None:
    listed = subprocess.run(
        [installed / "python", "-I", "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.lower()
    names = {line.split("==")[0].replace("_", "-") for line in listed.split()}
    named = {"flask", "gunicorn", "marshmallow", "click", "python-json-logger", "flask-cors"}
    flasks = {"blinker", "itsdangerous", "jinja2", "markupsafe", "werkzeug"}
    # What some releases of the named, or older Pythons, need besides.
    perhaps = {"packaging", "typing-extensions", "pip", "setuptools"}
    assert names - perhaps == {"perfgate-server"} | named | flasks
