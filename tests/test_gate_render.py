"""Verdicts for people: what they say, and that no name becomes markup."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perfgate_server.gate import render
from perfgate_server.gate.document import document
from perfgate_server.gate.rule import FoundBaseline, Options, judge
from perfgate_server.names import METRICS
from perfgate_server.summaries import MetricStats, Summary

HOST = {"os": "linux", "arch": "x86_64"}


def run(*, host: dict[str, Any] = HOST, failed: int = 0, **medians: float) -> Summary:
    stats = {
        name: MetricStats(median=value, min=value, max=value) for name, value in medians.items()
    }
    return Summary("run", host, 5, failed, stats)


def answer(
    baseline: Summary | None,
    current: Summary,
    records: list[Summary] | None = None,
    *,
    version: str = "v12",
    selector: str = "git_ref:refs/heads/main",
    tried: tuple[str, ...] = ("git_ref:refs/heads/main",),
    age: float = 3.0 * 86400,
    **options: Any,
) -> dict[str, Any]:
    found = FoundBaseline(baseline, version, selector, age) if baseline else None
    return document(judge(current, found, lambda: records or [], Options(**options)), {}, tried)


BASELINE = run(
    wall_ms=1000, cpu_ms=80, page_faults=0, ctx_switches=7, max_rss_kb=9652, throughput_per_s=12.5
)
CURRENT = run(
    wall_ms=1500, cpu_ms=96, page_faults=7, ctx_switches=7, max_rss_kb=19304, throughput_per_s=15.0
)
MEDIANS: dict[str, Any] = {name: stats["median"] for name, stats in CURRENT.stats.items()}
MIXED = answer(BASELINE, run(**MEDIANS, binary_bytes=5), noise=False)


def test_markdown_is_a_line_of_summary_and_a_table() -> None:
    assert render.markdown(MIXED, "demo", "tests/io.py::test[gzip]") == (
        "**fail**: `tests/io.py::test[gzip]` of `demo` against `v12`"
        " (`git_ref:refs/heads/main`, 3 d old): `wall_ms` +50.0 %; `cpu_ms` +20.0 %;"
        " `page_faults` could not be judged; `max_rss_kb` +100.0 %\n"
        "\n"
        "| metric | baseline | current | change | verdict |\n"
        "|---|---:|---:|---:|---|\n"
        "| `max_rss_kb` | 9.426 MiB | 18.85 MiB | +100.0 % | fail, threshold 20 % |\n"
        "| `wall_ms` | 1,000 ms | 1,500 ms | +50.0 % | fail, threshold 20 % |\n"
        "| `cpu_ms` | 80 ms | 96 ms | +20.0 % | warn, threshold 20 % |\n"
        "| `page_faults` | - | - | - | skip, the baseline is not above 0 |\n"
        "| `ctx_switches` | 7 | 7 | 0.0 % | pass |\n"
        "| `throughput_per_s` | 12.5 /s | 15 /s | +20.0 % | pass |\n"
        "| `binary_bytes` | - | - | - | not in the baseline |\n"
    )


def test_text_is_aligned_and_begins_with_the_verdict() -> None:
    assert render.text(MIXED, "demo", "io[gzip]") == (
        "FAIL: io[gzip] of demo against v12 (git_ref:refs/heads/main, 3 d old):"
        " wall_ms +50.0 %; cpu_ms +20.0 %; page_faults could not be judged; max_rss_kb +100.0 %\n"
        "metric             baseline    current    change  verdict\n"
        "max_rss_kb        9.426 MiB  18.85 MiB  +100.0 %  fail, threshold 20 %\n"
        "wall_ms            1,000 ms   1,500 ms   +50.0 %  fail, threshold 20 %\n"
        "cpu_ms                80 ms      96 ms   +20.0 %  warn, threshold 20 %\n"
        "page_faults               -          -         -  skip, the baseline is not above 0\n"
        "ctx_switches              7          7     0.0 %  pass\n"
        "throughput_per_s    12.5 /s      15 /s   +20.0 %  pass\n"
        "binary_bytes              -          -         -  not in the baseline\n"
    )


def test_metrics_that_changed_alike_keep_their_order() -> None:
    same = run(wall_ms=9, cpu_ms=9, binary_bytes=9)
    assert [row.metric for row in render.rows(answer(same, same))] == [
        name for name in METRICS if name in same.stats
    ]


def test_a_metric_that_is_only_reported_stands_behind_those_that_count() -> None:
    judged = answer(BASELINE, CURRENT, metrics=("throughput_per_s",), noise=False)
    shown = [row.metric for row in render.rows(judged)]
    assert shown[:3] == ["throughput_per_s", "max_rss_kb", "wall_ms"]


def test_what_fails_stands_before_what_warns_however_much_that_has_changed() -> None:
    judged = answer(
        run(wall_ms=100, cpu_ms=100),
        run(wall_ms=1050, cpu_ms=150),
        thresholds={"wall_ms": 10.0},
        noise=False,
    )
    assert [row.metric for row in render.rows(judged)] == ["cpu_ms", "wall_ms"]


def test_a_throughput_that_has_not_changed_is_below_no_floor() -> None:
    same = run(throughput_per_s=5.0)
    assert render.rows(answer(same, same))[0].verdict == "pass"


def test_ignored_members_are_no_row_of_the_table() -> None:
    shown = render.markdown({**MIXED, "ignored": ["tag"]}, "p", "b")
    assert shown.endswith("|\n\nIgnored members of the body: `tag`\n")


def test_a_change_that_does_not_count_is_not_shown_as_one_that_does() -> None:
    """A row that passes, or fails, against what its numbers say or its verdict tells why."""
    floors = {"wall_ms": 600, "throughput_per_s": 9}
    slower = run(wall_ms=1500, throughput_per_s=5.0)
    for threshold, word in ((0.2, "pass"), (3, "pass"), (0, "warn")):
        rows = render.rows(answer(BASELINE, slower, floors=floors, threshold=threshold))
        why = "below its floor" if word == "pass" else "threshold 0 %"
        for name in floors:
            assert f"{word}, {why}" in [row.verdict for row in rows if row.metric == name]
    rows = render.rows(answer(BASELINE, run(wall_ms=900, throughput_per_s=13.0), floors=floors))
    assert {row.verdict for row in rows if row.metric in floors} == {"pass"}
    elsewhere = run(wall_ms=1500, host={"os": "macos"})
    for host_mismatch, said in (
        ("warn", "fail, threshold 20 %, but on another host"),
        ("fail", None),
    ):
        [row] = [
            row
            for row in render.rows(answer(BASELINE, elsewhere, host_mismatch=host_mismatch))
            if row.metric == "wall_ms"
        ]
        assert row.verdict == (said or "fail, threshold 20 %")


def test_without_a_baseline_there_is_no_table() -> None:
    missing = answer(None, CURRENT, tried=("git_sha:1", "latest"))
    assert render.markdown(missing, "p", "b") == (
        "**skip**: `b` of `p`: no baseline was found (tried `git_sha:1`, `latest`; a record of this"
        " very run does not count)\n"
    )
    missing["baseline"]["others"] = True
    assert render.text(missing, "p", "b") == (
        "SKIP: b of p: no baseline was found (tried git_sha:1, latest; a record of this very run"
        " does not count; none of the others fits)\n"
    )
    assert render.text(answer(None, CURRENT, tried=()), "p", "b") == (
        "SKIP: b of p: no baseline was found\n"
    )


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (answer(BASELINE, run(wall_ms=1, failed=1)), "samples of this run failed"),
        (answer(run(wall_ms=1, failed=1), run(wall_ms=1)), "samples of the baseline failed"),
        (answer(run(wall_ms=0), run(wall_ms=0)), "no metric could be judged"),
        (answer(BASELINE, CURRENT, max_age=1.0), "the baseline is too old"),
        (answer(BASELINE, CURRENT, age=-9.0, max_age=1.0), "is dated ahead of the server's clock"),
        (answer(BASELINE, CURRENT, min_samples=9), "too few samples"),
        (answer(BASELINE, run(wall_ms=1, host={"os": "macos"})), "the hosts differ in os"),
        (
            answer(run(wall_ms=9), run(wall_ms=18)),
            "too few past runs to tell the noise (0 of 5), so the threshold decided",
        ),
        (
            answer(
                run(wall_ms=9, cpu_ms=9),
                run(wall_ms=18, cpu_ms=18),
                [run(wall_ms=9), run(wall_ms=9, cpu_ms=9)],
            ),
            "too few past runs to tell the noise (1 of 5), so the threshold decided",
        ),
        (
            answer(run(wall_ms=9), run(wall_ms=18), [run(wall_ms=v) for v in (9, 20, 3, 15, 6)]),
            "within the noise of past runs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_reason_stands_in_the_summary_in_words(judged: dict[str, Any], words: str) -> None:
    assert words in render.text(judged, "p", "b").split("\n")[0]
    assert words in render.markdown(judged, "p", "b").split("\n")[0].replace("`", "")


def test_a_history_that_is_long_enough_is_not_called_too_short() -> None:
    slow = answer(run(wall_ms=9), run(wall_ms=90), [run(wall_ms=9)] * 5)
    assert slow["noise"]["metrics"]["wall_ms"]["decided"] == "fails"
    assert "too few" not in render.text(slow, "p", "b")


def test_a_threshold_that_is_hardly_one_is_shown_of_what_passes_too() -> None:
    """Who writes 20 and means 20 % has a gate that never closes."""
    for threshold, shown in ((1.0, "pass"), (20.0, "pass, threshold 2000 %")):
        passed = answer(run(wall_ms=10), run(wall_ms=11), thresholds={"wall_ms": threshold})
        assert render.text(passed, "p", "b").rstrip().endswith(f"  {shown}")


def test_a_change_within_the_noise_says_how_far_the_noise_reaches() -> None:
    slow = answer(run(wall_ms=9), run(wall_ms=18), [run(wall_ms=9)] * 4 + [run(wall_ms=20)] * 3)
    lines = render.text(slow, "p", "b").split("\n")
    high = slow["noise"]["metrics"]["wall_ms"]["high"]
    assert lines[2].endswith(f"warn, within noise (up to {high:.4g} ms)")
    rates = [run(throughput_per_s=rate) for rate in (9.0, 20.0, 3.0, 15.0, 6.0)]
    few = answer(run(throughput_per_s=18.0), run(throughput_per_s=9.0), rates)
    low = few["noise"]["metrics"]["throughput_per_s"]["low"]
    assert f"within noise (down to {low:.4g} /s)" in render.text(few, "p", "b")


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("wall_ms", 0.0, "0 ms"),
        ("wall_ms", 2.5, "2.5 ms"),
        ("wall_ms", 1234567.0, "1,234,567 ms"),
        ("ctx_switches", 1e15, "1e+15"),
        ("ctx_switches", float(2**64), "1.845e+19"),
        ("max_rss_kb", 512.0, "512 KiB"),
        ("max_rss_kb", 1024.0**3, "1 TiB"),
        ("binary_bytes", 1000.0, "1000 B"),
        ("binary_bytes", 1446024.0, "1.379 MiB"),
        ("io_read_bytes", float(2**64), "1.678e+07 TiB"),
        ("energy_uj", 1500.0, "1,500 uJ"),
        ("throughput_per_s", 999.25, "999.2 /s"),
        ("throughput_per_s", 1234.5, "1,234 /s"),
        ("throughput_per_s", 0.000123456, "0.0001235 /s"),
        ("throughput_per_s", 1e308, "1e+308 /s"),
    ],
)
def test_values_have_units_that_people_read(name: str, number: float, shown: str) -> None:
    assert render.value(name, number) == shown


@pytest.mark.parametrize(
    ("pct", "shown"),
    [
        (0.0, "0.0 %"),
        (-0.0001, "0.0 %"),
        (-0.5, "-50.0 %"),
        (12.345, "+1,234.5 %"),
        (100.0, "101x"),
        (-100.0, "-99x"),  # of a rate below 0
        (999.0, "1e+03x"),
    ],
)
def test_changes_are_signed(pct: float, shown: str) -> None:
    delta = {"pct": pct, "ratio": pct + 1, "regression": 0.0}
    assert render.change(delta, {"threshold": 0.2}) == shown


@pytest.mark.parametrize(
    ("before", "now", "threshold", "shown"),
    [
        (2499, 2999, 0.2, "+20.01 %"),
        (2500, 3000, 0.2, "+20.0 %"),
        (100_000, 100_045, 0.0004, "+0.045 %"),
        (100_000, 100_004, 0.0004, "0.0 %"),
        (10**15, 12 * 10**14 + 1, 0.2, "+20.000000 %"),  # a limit to this too
    ],
)
def test_a_change_beyond_its_threshold_looks_like_it(
    before: int, now: int, threshold: float, shown: str
) -> None:
    slow = answer(run(wall_ms=before), run(wall_ms=now), threshold=threshold, noise=False)
    assert render.change(slow["deltas"]["wall_ms"], slow["budgets"]["wall_ms"]) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "-5 s"),
        (-0.01, "0 s"),
        (-172800, "-2 d"),
        (59.6, "60 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7200, "2 h"),
        (172800, "2 d"),
    ],
)
def test_ages_have_one_unit(seconds: float, shown: str) -> None:
    assert render.age(seconds) == shown


# -- whatever others named

HOSTILE = [
    "[click](https://example.com)",
    "![](https://example.com/x.png)",
    "<img src=x onerror=alert(1)>",
    "@everyone #12 owner/repo#1 GH-1",
    "https://example.com www.example.com me@example.com",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "`",
    "``",
    "a`b``c```d",
    " ` ",
    "   ",
    "",
    "a|b",
    "**bold** _it_ ~~no~~ $`x`$ :tada:",
    "x\n\n# heading\r\n| a |\n|---|",
    "\n::error::no",
    "\x1b[31mred\x1b[0m\x00",
    "\u202eright\u2066to\u200bleft\u2028",
    "\\` \\",
    "\ud800",
]


def hostile(test: Any) -> Any:
    """Run a property with each hostile name besides those that hypothesis finds."""
    for name in HOSTILE:
        test = example(name)(test)
    return test


def spans(line: str) -> tuple[str, list[str]]:
    """Split a line as CommonMark 6.1 does: what is outside of code spans, and each span's text."""
    outside, found, rest = "", [], line
    while opening := re.search("`+", rest):
        fence = opening.group()
        closing = re.search(rf"(?<!`){fence}(?!`)", rest[opening.end() :])
        assert closing, f"a fence that nothing closes: {line!r}"
        inner = rest[opening.end() :][: closing.start()]
        if inner[0] == inner[-1] == " " and inner.strip(" "):
            inner = inner[1:-1]
        found.append(inner)
        outside += rest[: opening.start()] + "S"
        rest = rest[opening.end() :][closing.end() :]
    return outside + rest, found


def everywhere(name: str, found: bool) -> dict[str, Any]:
    baseline = run(wall_ms=9) if found else None
    judged = answer(baseline, run(wall_ms=9), version=name, selector=name, tried=(name, name))
    return judged | {"ignored": [name]}


@hostile
@given(st.text(max_size=40))
def test_in_markdown_names_stand_in_code_spans_and_nowhere_else(name: str) -> None:
    lines = render.markdown(everywhere(name, True), name, name).split("\n")
    outside, found = spans(lines[0])
    assert outside == "**pass**: S of S against S (S, 3 d old)"
    assert len(set(found)) == 1
    assert lines[0].isprintable()
    assert lines[1] == ""
    assert spans(lines[-2]) == ("Ignored members of the body: S", found[:1])
    missing = render.markdown(everywhere(name, False), name, name)
    outside, found = spans(missing.split("\n")[0])
    assert outside == (
        "**skip**: S of S: no baseline was found (tried S, S; a record of this very run does not"
        " count)"
    )
    assert len(set(found)) == 1


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.isprintable() and name])
def test_in_markdown_a_name_that_can_be_seen_is_shown_as_it_is(name: str) -> None:
    assert spans(render.code_span(name)) == ("S", [name])


@hostile
@given(st.text(max_size=40))
def test_in_text_names_are_printable_ascii_on_the_first_line(name: str) -> None:
    lines = render.text(everywhere(name, True), name, name).split("\n")
    assert len(lines) == 5
    assert lines[0].startswith("PASS: ")
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert lines[1].startswith("metric") and lines[2].startswith("wall_ms")
    assert lines[3].removeprefix("Ignored members of the body: ")


numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 2**64 - 1), st.floats(0, allow_infinity=False)
)
runs = st.dictionaries(st.sampled_from(METRICS), numbers).map(lambda found: run(**found))


@given(runs, runs, st.booleans())
def test_every_verdict_has_both_forms_with_its_rows_the_worst_first(
    baseline: Summary, current: Summary, noise: bool
) -> None:
    judged = answer(baseline, current, noise=noise)
    table = render.rows(judged)
    assert sorted(row.metric for row in table) == sorted(baseline.stats.keys() | current.stats)
    statuses = [row.verdict.split(",")[0] for row in table]
    order = ["fail", "warn", "skip", "pass", *render._GAPS.values()]
    assert statuses == sorted(statuses, key=lambda status: min(order.index(status), 4))
    shown = render.markdown(judged, "p", "b").split("\n")
    assert len(shown) == (len(table) + 5 if table else 2)
    assert all(line.count("|") == 6 for line in shown[2:-1])
    assert render.text(judged, "p", "b").isascii()


@pytest.mark.parametrize("text", ["`a", "a`", " a", "a "])
def test_a_code_span_ends_where_its_text_does(text: str) -> None:
    """Or a backtick beside the fence would be one of it, and a space be taken off."""
    fence = "``" if "`" in text else "`"
    assert render.code_span(text) == f"{fence} {text} {fence}"
