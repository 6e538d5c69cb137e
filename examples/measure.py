#!/usr/bin/env python3
"""Measure a command and print its receipt: measure.py NAME REPEAT COMMAND... > run.json

For those who do not have `perfgate run`. The first run is a warm-up, and does not count.
Exit status 1: the command failed. The receipt says so too, and the gate fails it, unless it was
the warm-up alone.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import uuid
from datetime import datetime

if len(sys.argv) < 4 or not sys.argv[2].isdecimal() or int(sys.argv[2]) < 1:
    sys.exit("usage: measure.py NAME REPEAT COMMAND...")
# Where it is ignored, as some daemons leave it, every exit code is 0, and a failure looks well.
if hasattr(signal, "SIGCHLD"):  # not on Windows
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
name, repeat, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
# JSON has no words for what is not UTF-8, as the name of an old file.
shown = [os.fsencode(word).decode("utf-8", "replace") for word in command]


def sample(warmup: bool) -> dict[str, int]:
    started = time.perf_counter()
    try:
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
    wall_ms = round((time.perf_counter() - started) * 1000)
    return {"wall_ms": wall_ms, "exit_code": code, "warmup": warmup}


started_at = datetime.now().astimezone().isoformat()
samples = [sample(warmup=number == 0) for number in range(repeat + 1)]
wall_ms = [sample["wall_ms"] for sample in samples[1:]]
receipt = {
    "schema": "perfgate.run.v1",
    "tool": {"name": "measure.py", "version": "1"},
    "run": {
        "id": str(uuid.uuid4()),
        "started_at": started_at,
        "ended_at": datetime.now().astimezone().isoformat(),
        "host": {
            "os": platform.system().lower(),
            "arch": platform.machine(),
            "cpu_count": os.cpu_count(),
        },
    },
    "bench": {"name": name, "command": shown, "repeat": repeat, "warmup": 1},
    "samples": samples,
    "stats": {
        "wall_ms": {
            "median": round(statistics.median(wall_ms)),
            "min": min(wall_ms),
            "max": max(wall_ms),
            "mean": statistics.mean(wall_ms),
            "stddev": statistics.pstdev(wall_ms),
        }
    },
}
print(json.dumps(receipt, indent=1))
sys.exit(any(sample["exit_code"] for sample in samples))
