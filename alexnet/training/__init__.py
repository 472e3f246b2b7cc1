"""A run: its loop, its step, its optimizer, its restarts."""
