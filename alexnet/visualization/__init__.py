"""Images, charts, and the pictures of kernels."""
