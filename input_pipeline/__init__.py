"""Turns images into batches, without JAX."""
