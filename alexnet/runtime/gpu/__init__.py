"""Setup, checks and error messages of processes with GPUs."""
