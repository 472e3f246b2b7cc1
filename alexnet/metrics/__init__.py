"""The numbers of a run: files, TensorBoard, console, clock."""
