"""The files in a run's workdir."""
