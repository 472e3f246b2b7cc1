"""Training steps of this project, TensorFlow and PyTorch, by process."""
