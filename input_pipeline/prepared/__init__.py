"""Prepared data: its format, and what writes it."""
