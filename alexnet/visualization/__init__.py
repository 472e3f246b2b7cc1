"""Draws images, charts and kernels."""
