"""Behind a real nginx, with the README's own configuration."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    KEYS,
    PATIENCE,
    ROOT,
    Server,
    free_port,
    perfgate_server,
    receipt,
    serving,
    wait_for,
)
from test_server import drive

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

if NGINX is None and not os.environ.get("CI"):
    pytest.skip("nginx is not installed: apt-get install nginx-light", allow_module_level=True)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind nginx; requests go to nginx."""
    folder = tmp_path_factory.mktemp("nginx")
    arguments = perfgate_server("--storage-type", "sqlite", "--trusted-proxies", "1")
    with serving([*arguments, "--threads", "2"], folder) as server:
        port = free_port()
        site = (ROOT / "examples" / "nginx.conf").read_text("utf-8")
        site = site.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
        # No certificate here.
        site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
        site = "\n".join(line for line in site.splitlines() if "ssl_certificate" not in line)
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; worker_processes 1;\n"
            f"error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {folder}/body;\n"
            f"proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n"
            f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{site}\n}}\n"
        )
        assert NGINX is not None, "CI must install nginx"
        with (folder / "nginx.out").open("w") as out:
            nginx = subprocess.Popen([NGINX, "-c", folder / "nginx.conf"], stderr=out)
        try:
            front = Server(server.process, port, Path(folder / f"server-{server.port}.log"))
            wait_for(lambda: _up(front), f"nginx: {(folder / 'nginx.out').read_text()}")
            yield front
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE)


def _up(front: Server) -> bool:
    with contextlib.suppress(OSError):
        return front.request("GET", "/health", role=None)[0] == 200
    return False


def test_everything_works_through_it(behind: Server) -> None:
    drive(behind)


def test_names_and_forwarded_headers_come_through(behind: Server) -> None:
    """Encoded or not, slashes unmerged; a client's own X-Forwarded-* is replaced."""
    body = json.dumps(receipt())
    for form in ("a/b[c]<d>", "a%2Fb%5Bc%5D%3Cd%3E"):
        path = f"/projects/p/baselines/{form}/versions/v1"
        forged = {
            "X-Forwarded-Prefix": "/evil",
            "X-Forwarded-For": "6.6.6.6",
            "X-Request-ID": form[1:2] + "x",
        }
        status, headers, _ = behind.request("PUT", path, body, forged)
        assert status in (200, 201)
        assert headers["location"].startswith("/projects/p/")
    assert behind.request("GET", "/projects/p/baselines/a//b/latest")[0] == 400
    assert {line["client"] for line in behind.lines()} == {"127.0.0.1"}


def test_slow_clients_are_nginxs_to_buffer(behind: Server) -> None:
    """More stalled uploads than the server has threads, and others still get answers."""
    head = (
        "PUT /projects/p/baselines/slow/versions/v1 HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {KEYS['admin']}\r\nContent-Length: 5000\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            slow = socket.create_connection(("127.0.0.1", behind.port), timeout=PATIENCE)
            stack.enter_context(slow).sendall(head + b"{")
        for turn in range(10):
            assert behind.put("honest", f"v{turn}") == 201
