"""Checks of configs, intervals, sweeps, and errors that a user can fix."""
