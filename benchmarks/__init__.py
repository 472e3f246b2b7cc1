"""Side-by-side measurements; their last results are in README."""
