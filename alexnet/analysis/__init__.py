"""Commands that analyse finished runs."""
