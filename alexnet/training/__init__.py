"""Training of a run: the loop, the step, the optimizer and resuming."""
