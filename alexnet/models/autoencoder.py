"""An autoencoder whose narrowest layer is binary (paper §7).

The paper proposes to train one on the features, so that similar images have
codes that differ in few bits. The code is that of Krizhevsky and Hinton, "Using
very deep autoencoders for content-based image retrieval" (2011): logistic
units that are rounded on the way forward, while the gradient ignores it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Autoencoder(nn.Module):
  """One layer to a binary code, two layers back.

  Attributes:
    dimensions: of the vectors.
    bits: of the code.
    hidden: units between code and vectors.
  """

  dimensions: int
  bits: int
  hidden: int

  @nn.compact
  def __call__(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes and decodes.

    Args:
      vectors: [vectors, dimensions] float32.

    Returns:
      (the vectors as decoded, their codes of -1 and 1 [vectors, bits]). A bit
      is 1 where what the layer 'encoder' makes of the vector is positive.
    """
    units = nn.sigmoid(nn.Dense(self.bits, name='encoder')(vectors))
    # Straight through: the value is rounded, the gradient is the unit's own.
    code = 2 * (units + lax.stop_gradient(jnp.round(units) - units)) - 1
    hidden = nn.relu(nn.Dense(self.hidden, name='hidden')(code))
    return nn.Dense(self.dimensions, name='decoder')(hidden), code
