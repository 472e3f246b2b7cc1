"""Images to batches; knows nothing of JAX."""
