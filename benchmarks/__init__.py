"""Side-by-side measurements; their last results are in docs/speed.md."""
