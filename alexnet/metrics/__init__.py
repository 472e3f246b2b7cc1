"""Metrics of a run: files, TensorBoard, console output, and time."""
