"""A real nginx for the tests and for benchmarks/overload.py, with the README's configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import PATIENCE, ROOT, Server, free_port, not_installed, wait_for

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def fronted(folder: Path, *servers: Server) -> Iterator[Server]:
    """Run nginx with the README's configuration before these servers; requests go to nginx."""
    if NGINX is None:
        not_installed("nginx (apt-get install nginx-light)")
    port = free_port()
    site = (ROOT / "examples" / "nginx.conf").read_text("utf-8")
    upstream = "".join(f"server 127.0.0.1:{server.port};" for server in servers)
    site = site.replace("server 127.0.0.1:8080;", upstream)
    # No certificate here.
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    site = "\n".join(line for line in site.splitlines() if "ssl_certificate" not in line)
    # Else its workers, which are nobody's then, cannot enter the folder to buffer anything there.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid nginx.pid; worker_processes 1;\n"
        f"error_log error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path body;\n"
        f"proxy_temp_path proxy; fastcgi_temp_path f;\n"
        f"uwsgi_temp_path u; scgi_temp_path s;\n{site}\n}}\n"
    )
    with (folder / "nginx.out").open("w") as out:
        nginx = subprocess.Popen([NGINX, "-p", folder, "-c", "nginx.conf"], stderr=out)
    try:
        front = Server(servers[0].process, port, Path(folder / f"server-{servers[0].port}.log"))
        wait_for(lambda: _up(front), f"nginx: {(folder / 'nginx.out').read_text()}")
        yield front
    finally:
        nginx.terminate()
        nginx.wait(PATIENCE)


def _up(front: Server) -> bool:
    with contextlib.suppress(OSError):
        return front.request("GET", "/health", role=None)[0] == 200
    return False
