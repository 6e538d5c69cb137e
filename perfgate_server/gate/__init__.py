"""The gate: whether a run is slower than its baseline. Knows the standard library alone."""
