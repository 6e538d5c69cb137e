"""What is kept of a receipt for comparing: its host, its samples' count, its metrics' medians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The metrics that a receipt can hold, in the order in which they are shown.
METRICS = (
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
    "throughput_per_s",
)


@dataclass(frozen=True, slots=True)
class MetricStats:
    """One metric over the samples of one run, in the unit that its name ends with."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A receipt without its samples.

    `host` holds os, arch, cpu_count and memory_bytes, only what is known of them. `samples`
    counts the measured samples, without the warm-ups; `failed` those of them that ended with
    another exit code than 0 or timed out.
    """

    run_id: str
    host: dict[str, Any]
    samples: int
    failed: int
    stats: dict[str, MetricStats]
