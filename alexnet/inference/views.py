"""Turns 8-bit pixels into the network's input, on the device.

The host sends crops of uint8 pixels. Subtracting the mean, mirroring and
shifting colours take a device next to no time.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet.models import Module

Batch = dict[str, jax.Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['mean_image'],
    meta_fields=['mean_crop', 'mirror', 'crop', 'pad'],
)
@dataclasses.dataclass(frozen=True)
class Views:
  """Makes the network's input from batches of a run.

  A pytree whose only leaf is the mean image, so that a compiled step serves
  every dataset.

  Attributes:
    mean_image: [size, size, channels] float32.
    mean_crop: 'under' subtracts the part of the mean image at the crop's offset
      (and mirrors the difference); 'centre' subtracts its centre at any offset
      (run #145).
    mirror: whether the ten views include mirror images; five views if not.
    crop: side of the network's input, in pixels; 224 in the paper.
    pad: black pixels around the squares of training, where no mean is
      subtracted 'under' a crop.
  """

  mean_image: np.ndarray
  mean_crop: str
  mirror: bool
  crop: int
  pad: int = 0

  def training(self, batch: Batch) -> jax.Array:
    """Subtracts the mean, mirrors, and shifts colours by PCA (paper §4.1).

    Args:
      batch: 'image' [batch, crop, crop, channels] uint8, 'offset' [batch, 2]
        int32, 'flip' [batch] bool, 'shift' [batch, channels] float32,
        'divisor' [batch] float32.

    Returns:
      [batch, crop, crop, channels] float32: (crop - mean + shift) / divisor.
    """
    image = batch['image'].astype(jnp.float32)
    flip = batch['flip'][:, None, None, None]
    mirrored = lambda x: jnp.where(flip, x[:, :, ::-1], x)
    if self.mean_crop == 'under':
      margin = (self.pad, self.pad), (self.pad, self.pad), (0, 0)
      mean = jnp.pad(self.mean_image, margin)
      under = jax.vmap(self._cut_at, (None, 0))(mean, batch['offset'])
      image = mirrored(image - under)
    else:
      image = mirrored(image) - self._centre(self.mean_image)
    shifted = image + batch['shift'][:, None, None]
    return shifted / batch['divisor'][:, None, None, None]

  def centre(self, batch: Batch) -> jax.Array:
    """Cuts centre crops and subtracts the mean.

    Args:
      batch: 'image' [batch, size, size, channels] uint8.

    Returns:
      [batch, 1, crop, crop, channels] float32.
    """
    return self._less_mean(batch, lambda x: self._centre(x)[:, None])

  def ten(self, batch: Batch) -> jax.Array:
    """Cuts ten views and subtracts the mean (paper §4.1).

    Args:
      batch: 'image' [batch, size, size, channels] uint8.

    Returns:
      [batch, 10, crop, crop, channels] float32: four corners and the centre,
      then the mirror image of each; [batch, 5, ...] without mirror images.
    """

    def cut(squares):
      border = squares.shape[1] - self.crop
      corners = [(top, left) for top in (0, border) for left in (0, border)]
      crops = [self._cut(squares, top, left) for top, left in corners]
      five = jnp.stack([*crops, self._centre(squares)], axis=1)
      if not self.mirror:
        return five
      return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)

    return self._less_mean(batch, cut)

  def dense(self, batch: Batch) -> jax.Array:
    """Subtracts the resized mean image from whole images, for dense views.

    Each part of an image loses the mean under it. The same mean for all crops,
    as in run #145, is impossible because the crops overlap.

    Args:
      batch: 'image' [batch, height, width, channels] uint8, of any size.

    Returns:
      [batch, 2, height, width, channels] float32: the image and its mirror
      image; [batch, 1, ...] without the latter.
    """
    image = batch['image'].astype(jnp.float32)
    shape = image.shape[1:]
    one = image - jax.image.resize(self.mean_image, shape, 'linear')
    views = [one, one[:, :, ::-1]] if self.mirror else [one]
    return jnp.stack(views, axis=1)

  def _less_mean(self, batch, cut):
    squares = batch['image'].astype(jnp.float32)
    if self.mean_crop == 'under':
      return cut(squares - self.mean_image)
    return cut(squares) - self._centre(self.mean_image)

  def _centre(self, square):
    border = (square.shape[-2] - self.crop) // 2
    return self._cut(square, border, border)

  def _cut(self, square, top, left):
    rows, columns = slice(top, top + self.crop), slice(left, left + self.crop)
    return square[..., rows, columns, :]

  def _cut_at(self, square, offset):
    start = (offset[0], offset[1], jnp.zeros((), offset.dtype))
    return lax.dynamic_slice(
        square, start, (self.crop, self.crop, square.shape[-1])
    )


def predict_views(
    local_model: Module, variables: Any, crops: jax.Array
) -> tuple[jax.Array, int]:
  """Averages the softmax output over the views of an example (paper §4.1).

  For a network from `models.everywhere`, each position of each view counts as a
  view.

  Args:
    local_model: the network; from `models.on_mesh` inside a mapped step.
    variables: variables of the network, as local blocks.
    crops: [batch, views, height, width, channels] float32.

  Returns:
    The mean's logarithm, [batch, classes] float32, and the number of views.
  """
  logits = local_model.apply(variables, crops.reshape(-1, *crops.shape[2:]))
  log_softmax = jax.nn.log_softmax(logits)
  log_softmax = log_softmax.reshape(crops.shape[0], -1, logits.shape[-1])
  views = log_softmax.shape[1]
  return jax.nn.logsumexp(log_softmax, axis=1) - jnp.log(views), views
