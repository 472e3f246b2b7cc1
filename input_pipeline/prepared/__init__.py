"""Prepared data: its format and its writer."""
