"""The parts of a chain of tf.data: what is drawn, and calls of Python."""
