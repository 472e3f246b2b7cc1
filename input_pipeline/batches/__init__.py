"""Parts of the tf.data chain: random draws, and calls of Python."""
