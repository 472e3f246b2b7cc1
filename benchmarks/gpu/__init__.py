"""A GPU compared with its CPU, its peak and PyTorch."""
