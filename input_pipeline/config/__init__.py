"""Checks of config fields, and the fields of the data."""
