"""What a project, a benchmark, a version and a metric may be called, and other words and bounds
that many know. One place; knows nothing else.

Patterns end with ``\\Z``: ``$`` would let a trailing newline through.
"""

import re

PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.\-:@+=,()\[\]<>]+"
BENCHMARK = re.compile(rf"(?=.{{1,256}}\Z)(?:{_SEGMENT}/)*(?!versions\Z){_SEGMENT}\Z")

VERSION = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.\-:@+=()~!]{1,128}\Z")

PROJECT_RULE = (
    "Must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or a digit."
)
BENCHMARK_RULE = (
    "Must be at most 256 characters in segments separated by '/', each of letters, digits and"
    " _.-:@+=,()[]<>, none of them '.' or '..', and the last not 'versions'."
)
VERSION_RULE = "Must be 1 to 128 letters, digits and _.-:@+=()~!, and neither '.' nor '..'."

#: The part of a path that names something -> what it must match, and the sentence that says so.
RULES = {
    "project": (PROJECT, PROJECT_RULE),
    "benchmark": (BENCHMARK, BENCHMARK_RULE),
    "version": (VERSION, VERSION_RULE),
}

#: The most tags that a record has, and the most characters of one.
MAX_TAGS, MAX_TAG = 32, 64
#: The most characters of a git_ref or a git_sha.
MAX_GIT = 256

#: What a verdict, or that on one metric, can be.
STATUSES = ("pass", "warn", "fail", "skip")

#: What tells machines apart, of a receipt's ``run.host``.
HOST = ("os", "arch", "cpu_count", "memory_bytes")

#: The metrics that are counted in whole units of what their name ends with.
COUNTS = (
    "wall_ms",
    "cpu_ms",
    "page_faults",
    "ctx_switches",
    "max_rss_kb",
    "io_read_bytes",
    "io_write_bytes",
    "network_packets",
    "energy_uj",
    "binary_bytes",
)
#: All metrics, in the order in which they are shown.
METRICS = (*COUNTS, "throughput_per_s")
