"""A GPU beside its CPU, its peak and PyTorch; the command is this package."""
