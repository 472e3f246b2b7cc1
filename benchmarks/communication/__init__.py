"""Communication of a compiled step; the command is `benchmarks.scaling`."""
