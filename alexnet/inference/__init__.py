"""Trained networks, used on any images."""
