"""Image files to pixels, within limits, by documented rules."""
