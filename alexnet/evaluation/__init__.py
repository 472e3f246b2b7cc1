"""Evaluation of runs on their evaluation set."""
