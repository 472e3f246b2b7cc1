"""What looks at finished runs: one command a file."""
