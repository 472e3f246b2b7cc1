"""Looks at finished runs; a command a file."""
