"""Tests that what the server acknowledged survives a power cut.

    apt-get install qemu-system-x86 nbdkit busybox-static cpio e2fsprogs linux-image-amd64
    python benchmarks/powercut.py --rounds 50

The server runs in a virtual machine that has this machine's files, read-only, and a disk with a
volatile cache: what is written stays in the cache until it is flushed. In each round 8 clients
upload, promote and delete; at a random moment the machine and the cache are killed with SIGKILL,
and the machine is started again with what the disk has. Then every acknowledged write must be
there, every unacknowledged one be there whole or not at all, and the database be sound. Ends with
a table; exit status 1 if a promise was broken. What was not flushed is lost whole: a real disk may
keep some of it, in any order.

With `--failing` a fifth of what is written to the disk fails for some seconds before the cut. With
`--lying` the disk says that it has flushed, and has not: promises must be broken then, or this
program would not see it.

It needs Debian's kernel for x86-64. A round takes some 40 seconds where the processor is emulated,
less with `--accelerator kvm`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import support
from durability import Target, campaign, rounds
from support import ROOT, perfgate_server

from perfgate_server.cli import exit_on_signals

#: What the virtual machine's kernel needs for its disk, its network and its files.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "9pnet_virtio", "9p", "crc32c_generic", "ext4")
PROGRAMS = ("qemu-system-x86_64", "nbdkit", "busybox", "cpio", "mkfs.ext4")
DISK_BYTES = 4 * 2**30
#: Rounds on one disk. On a new one the files are new too, and so are their names.
ROUNDS_EACH = 5
#: Seconds that a start may take: without KVM it takes 20.
BOOT_PATIENCE = 300.0
#: In the virtual machine.
DATABASE = "/media/perfgate.db"
#: The file that makes the disk fail while it is there.
FAILING = "failing"
#: What is wrong with the database is said on the console, after this.
PROBLEM = "problem: "
#: Looks at a copy: SQLite recovers what it opens, and that is for the server to do.
LOOK = f"""import os, pathlib, shutil, durability
copy = "/dev/shm/copy.db"
for end in ("", "-wal"):
    if os.path.exists({DATABASE!r} + end):
        shutil.copy({DATABASE!r} + end, copy + end)
if os.path.exists(copy):
    for problem in durability.sqlite_problems(pathlib.Path(copy)):
        print({PROBLEM!r} + problem)
    for end in ("", "-wal", "-shm"):
        pathlib.Path(copy + end).unlink(missing_ok=True)
"""

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module || echo "no $module"; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
mount -t proc proc /host/proc
mount -t devtmpfs dev /host/dev
mkdir -p /host/dev/shm
mount -t tmpfs shm /host/dev/shm
mount -t ext4 /dev/vda /host/media
exec chroot /host /bin/sh -c {command}
"""
#: The disk is at $uri; the console is where the server has its log.
QEMU = """exec qemu-system-x86_64 -accel {accelerator} -m 1024 -smp 2
    -kernel {kernel} -initrd {initrd} -append 'console=ttyS0 quiet panic=-1 mitigations=off'
    -nodefaults -no-reboot -display none -serial stdio
    -netdev user,id=net,hostfwd=tcp:127.0.0.1:{{port}}-10.0.2.15:8080
    -device virtio-net-pci,netdev=net,romfile=
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap
    -drive format=raw,if=virtio,file=$uri < /dev/null >&2
"""


def inside() -> str:
    """Return the command that looks at the database, and then serves it."""
    server = perfgate_server("--storage-type", "sqlite", "--database-url", DATABASE)
    server += ["--bind", "0.0.0.0", "--log-level", "error"]
    path = shlex.quote(f"{ROOT}:{ROOT}/tests")
    variables = f"HOME=/media TMPDIR=/dev/shm PYTHONPATH={path}"
    look = shlex.join([sys.executable, "-c", LOOK])
    serve = shlex.join(server).replace("{port}", "8080")
    return f"cd /media && export {variables} && {look}; exec {serve}"


def newest_kernel() -> tuple[Path, Path]:
    """Return the kernel that was installed last, and the folder of its modules."""
    for modules in sorted(Path("/lib/modules").glob("*"), key=os.path.getmtime, reverse=True):
        for kernel in (modules / "vmlinuz", Path("/boot", f"vmlinuz-{modules.name}")):
            if kernel.is_file():
                return kernel, modules
    sys.exit("no kernel is installed (apt-get install linux-image-amd64)")


def drivers(modules: Path) -> list[Path]:
    """Return the files of the modules in the order in which they are loaded."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[Path(file).name.partition(".")[0]] = [file, *others.split()]
    ordered: dict[str, None] = {}
    for name in DRIVERS:  # what is not among them is in the kernel itself
        ordered.update(dict.fromkeys(reversed(needs.get(name, []))))
    return [modules / file for file in ordered]


def make_initrd(folder: Path, modules: Path) -> Path:
    """Make the little system that loads the drivers and starts the server in this machine's
    files."""
    root = folder / "initrd"
    for name in ("bin", "proc", "dev", "host", "modules"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    for number, file in enumerate(drivers(modules)):
        (root / "modules" / f"{number:02}-{file.name}").write_bytes(file.read_bytes())
    (root / "init").write_text(INIT.format(command=shlex.quote(inside())))
    for executable in ("bin/busybox", "init"):
        (root / executable).chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    pack = ["cpio", "--quiet", "-o", "-H", "newc"]
    packed = subprocess.run(pack, cwd=root, input=names.encode(), capture_output=True, check=True)
    initrd = folder / "initrd.cpio"
    initrd.write_bytes(packed.stdout)
    return initrd


def machine(folder: Path, kernel: Path, initrd: Path, accelerator: str, lying: bool) -> list[str]:
    """Return the command line of a machine with a new disk, whose server answers on {port}."""
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    files = {"kernel": shlex.quote(str(kernel)), "initrd": shlex.quote(str(initrd))}
    run = " ".join(QEMU.split()).format(accelerator=accelerator, **files)
    # All are in one process group, and so are killed at once.
    return [
        *("nbdkit", "-U", "-", "--filter=cache", "--filter=error", "file", str(disk)),
        f"cache={'unsafe' if lying else 'writeback'}",
        *("error-pwrite=EIO", "error-pwrite-rate=20%", f"error-pwrite-file={folder / FAILING}"),
        *("--run", run),
    ]


class PowerTarget(Target):
    """A server in a virtual machine."""

    ways = ("server",)
    longest = 5.0

    def __init__(self, folder: Path, command: list[str], failing: bool) -> None:
        self._failing = failing
        super().__init__(folder, command)

    def kill(self, way: str) -> None:
        flag = self._folder / FAILING
        if self._failing:
            flag.touch()
            time.sleep(random.uniform(1.0, 4.0))
        super().kill(way)
        flag.unlink(missing_ok=True)

    def problems(self) -> list[str]:
        return re.findall(f"^{PROBLEM}(.*?)\r?$", self.server.log, re.MULTILINE)


@contextlib.contextmanager
def target_on(options: argparse.Namespace) -> Iterator[PowerTarget]:
    with tempfile.TemporaryDirectory(prefix="perfgate-powercut-") as name:
        folder = Path(name)
        kernel, modules = newest_kernel()
        initrd = make_initrd(folder, modules)
        command = machine(folder, kernel, initrd, options.accelerator, options.lying)
        with contextlib.closing(PowerTarget(folder, command, options.failing)) as target:
            yield target


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--failing", action="store_true", help="the disk fails before the cut")
    parser.add_argument("--lying", action="store_true", help="the disk loses what it flushed")
    parser.add_argument("--accelerator", default="tcg", help="of qemu, such as kvm")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where mkfs.ext4 is, and only root looks
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)}: not installed; see the top of {__file__}")
    exit_on_signals()
    support.PATIENCE = BOOT_PATIENCE
    return campaign(rounds, lambda: target_on(options), options.rounds, ROUNDS_EACH, options.seed)


if __name__ == "__main__":
    sys.exit(main())
