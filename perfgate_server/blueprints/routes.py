"""The paths of the API, and what their parts may be."""

from __future__ import annotations

from werkzeug.routing import BaseConverter


class SegmentConverter(BaseConverter):
    """A project or a version; an empty one too, so that it is a 400 that says so."""

    regex = "[^/]*"


class BenchmarkConverter(BaseConverter):
    """A benchmark, with its slashes, before ``/versions/{version}``."""

    part_isolating = False
    regex = "(?s:.*)"


class LeafBenchmarkConverter(BenchmarkConverter):
    """A benchmark before ``/latest``, ``/versions``, ``/trend``, ``/promote`` and
    ``/compare``. Behind ``/versions`` these words are versions: that reading leaves each path
    just one."""

    regex = "(?:versions|(?s:.*)(?<!/versions))"


CONVERTERS = {
    "segment": SegmentConverter,
    "benchmark": BenchmarkConverter,
    "leaf": LeafBenchmarkConverter,
}

BASELINES = "/projects/<segment:project>/baselines"
BENCHMARK = f"{BASELINES}/<leaf:benchmark>"
VERSION = f"{BASELINES}/<benchmark:benchmark>/versions/<segment:version>"
VERDICTS = "/projects/<segment:project>/verdicts"
