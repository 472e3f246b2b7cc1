"""From 8-bit pixels to what the network reads, on the device.

The host sends crops as they lie on disk; the mean, the mirror image and the
colour shift are arithmetic, and cost a device next to nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from input_pipeline.preprocessing import CROP

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Views:
  """How a run makes its network's input; the same for all its batches.

  Attributes:
    mean_image: [256, 256, 3] float32.
    mean_crop: 'under', to subtract the part of the mean image that a crop was
      cut from (and mirror the difference), or 'centre', to subtract its centre
      whatever the offset (run #145).
    mirror: whether the ten views have mirror images; without them five are
      left.
  """

  mean_image: np.ndarray
  mean_crop: str
  mirror: bool

  def training(self, batch: Batch) -> jax.Array:
    """Mean, mirror image and PCA lighting of training crops (paper §4.1).

    Args:
      batch: 'image' [batch, 224, 224, 3] uint8, 'offset' [batch, 2] int32,
        'flip' [batch] bool, 'shift' [batch, 3] float32, 'divisor' [batch]
        float32.

    Returns:
      [batch, 224, 224, 3] float32: (crop - mean + shift) / divisor.
    """
    image = batch['image'].astype(jnp.float32)
    flip = batch['flip'][:, None, None, None]
    mirrored = lambda x: jnp.where(flip, x[:, :, ::-1], x)
    if self.mean_crop == 'under':
      mean = jnp.asarray(self.mean_image)
      image = mirrored(image - jax.vmap(_cut, (None, 0))(mean, batch['offset']))
    else:
      image = mirrored(image) - centre(self.mean_image)
    shifted = image + batch['shift'][:, None, None]
    return shifted / batch['divisor'][:, None, None, None]

  def centre(self, batch: Batch) -> jax.Array:
    """The centre crop less the mean.

    Args:
      batch: 'image' [batch, 256, 256, 3] uint8.

    Returns:
      [batch, 1, 224, 224, 3] float32.
    """
    return self._less_mean(batch, lambda squares: centre(squares)[:, None])

  def ten(self, batch: Batch) -> jax.Array:
    """Ten views less the mean (paper §4.1).

    Args:
      batch: 'image' [batch, 256, 256, 3] uint8.

    Returns:
      [batch, 10, 224, 224, 3] float32: four corners and the centre, then the
      mirror image of each; [batch, 5, ...] without mirror images.
    """

    def cut(squares):
      border = squares.shape[1] - CROP
      corners = [(top, left) for top in (0, border) for left in (0, border)]
      crops = [_cut_all(squares, top, left) for top, left in corners]
      five = jnp.stack([*crops, centre(squares)], axis=1)
      if not self.mirror:
        return five
      return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)

    return self._less_mean(batch, cut)

  def _less_mean(self, batch, cut):
    squares = batch['image'].astype(jnp.float32)
    if self.mean_crop == 'under':
      return cut(squares - self.mean_image)
    return cut(squares) - centre(self.mean_image)


def centre(square: jax.Array) -> jax.Array:
  """[..., 256, 256, channels] to its centre [..., 224, 224, channels]."""
  border = (square.shape[-2] - CROP) // 2
  return _cut_all(square, border, border)


def _cut_all(square, top, left):
  return square[..., top : top + CROP, left : left + CROP, :]


def _cut(square, offset):
  start = (offset[0], offset[1], jnp.zeros((), offset.dtype))
  return lax.dynamic_slice(square, start, (CROP, CROP, square.shape[-1]))
