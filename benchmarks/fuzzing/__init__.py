"""Mutated files through every reader; the command is `benchmarks.fuzz`."""
