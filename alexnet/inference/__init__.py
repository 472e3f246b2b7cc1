"""Applies trained networks to any images."""
