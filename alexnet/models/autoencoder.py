"""An autoencoder whose narrowest layer is binary (paper §7).

The paper proposes to train one on the features, so that similar images have
codes that differ in few bits. The form is that of Krizhevsky and Hinton, "Using
very deep autoencoders for content-based image retrieval" (2011): logistic
units that are rounded on the way forward, while the gradient ignores it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Autoencoder(nn.Module):
  """Two layers to a binary code, two layers back.

  Attributes:
    dimensions: of the vectors.
    hidden: units between vectors and code.
    bits: of the code.
  """

  dimensions: int
  hidden: int
  bits: int

  def setup(self):
    self.read = nn.Dense(self.hidden)
    self.to_code = nn.Dense(self.bits)
    self.from_code = nn.Dense(self.hidden)
    self.write = nn.Dense(self.dimensions)

  def __call__(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes and decodes.

    Args:
      vectors: [vectors, dimensions] float32.

    Returns:
      (the vectors as decoded, the logistic units before rounding [vectors,
      bits], 0..1).
    """
    units = nn.sigmoid(self.encode(vectors))
    # Straight through: the value is rounded, the gradient is the unit's own.
    code = units + lax.stop_gradient(jnp.round(units) - units)
    hidden = nn.relu(self.from_code(2 * code - 1))
    return self.write(hidden), units

  def encode(self, vectors: jax.Array) -> jax.Array:
    """[vectors, bits] float32: what is positive is a one in the code."""
    return self.to_code(nn.relu(self.read(vectors)))
