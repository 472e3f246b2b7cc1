"""The training step beside TensorFlow, PyTorch: a process for each."""
