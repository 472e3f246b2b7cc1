"""Checks of configs, intervals in steps, sweeps, and the errors that a user can mend."""
