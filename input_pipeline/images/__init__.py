"""Decodes image files, within limits and by documented rules."""
