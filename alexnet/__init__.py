"""The reference AlexNet in JAX."""
