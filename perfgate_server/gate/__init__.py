"""The gate: whether a run is slower than its baseline. Pure: no Flask, no storage, no I/O."""
