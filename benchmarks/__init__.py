"""Side-by-side benchmarks; docs/speed.md has their latest results."""
