"""Features of several layers at once, for any parameters."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet.analysis.features.images import Images
from alexnet.inference import batching
from alexnet.inference.predictor import TrainedNetwork
from alexnet.models import input_shape
from alexnet.models.inference_params import for_module, rounded
from alexnet.models.layers import OUTPUTS, kept
from alexnet.runtime import compilation
from alexnet.runtime.gpu import precision
from input_pipeline.errors import DataError, ImageError

# Name of the network's input among layers.
PIXELS = 'pixels'


class Layers:
  """Computes several layers at once; compiled once for any parameters."""

  def __init__(
      self,
      network: TrainedNetwork,
      names: Sequence[str],
      largest: int,
      batch_size: int | None = None,
  ):
    """Chooses the layers.

    Args:
      network: provides the module and its input.
      names: names from `network.layers`, and 'pixels' for the crop itself.
      largest: see `average_cells`.
      batch_size: None for that of the config's evaluation.
    """
    def outputs(variables, squares, views):
      crops = views.centre({'image': squares})[:, 0]
      _, kinds = network.model.apply(
          for_module(variables), crops, mutable=OUTPUTS
      )
      return {
          name: average_cells(
              crops if name == PIXELS else kept(kinds, name), largest
          )
          for name in names
      }

    (device,) = jax.tree.leaves(network.params)[0].devices()
    outputs = precision.traced(outputs, network.model, device)
    self._step = compilation.jit_for(device, network.model.dtype, outputs)
    self._views = jax.device_put(network.views, device)
    self._dtype = network.model.dtype
    self._batch = batch_size or network.config.evaluation_batch_size

  def features(
      self,
      variables: Any,
      images: Images,
      indices: np.ndarray,
      left_out: dict[str, str] | None = None,
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features of centre crops.

    Args:
      variables: the network's variables, or others of the same shapes.
      images: images to read from.
      indices: indices of the images.
      left_out: receives {file: message} for unusable images, which are left
        out; None raises an error for them.

    Returns:
      ({layer: [images, dimensions] float32}, labels [images]).

    Raises:
      DataError: an image cannot be read (the message names it), or none can.
    """
    variables = rounded(variables, self._dtype)

    def begin(squares):
      batch = np.zeros((self._batch, *squares[0].shape), np.uint8)
      batch[: len(squares)] = squares
      return self._step(variables, batch, self._views)

    def finish(outputs):
      arrays = jax.device_get(outputs)
      return [dict(zip(arrays, rows)) for rows in zip(*arrays.values())]

    found, good = [], []
    for index, row in zip(indices, batching.stream(
        indices.tolist(), images.square, begin, finish, self._batch
    )):
      if not isinstance(row, ImageError):
        found.append(row)
        good.append(index)
      elif left_out is None:
        raise row
      else:
        left_out[row.name] = str(row)
    if not found:
      raise DataError(
          f'none of {len(indices):,} images of {images.source.name} can be read'
      )
    return {
        name: np.stack([row[name] for row in found]) for name in found[0]
    }, images.labels[good]


def initial(network: TrainedNetwork, seed: int) -> Any:
  """Variables at the start of a run like the network's."""
  (device,) = jax.tree.leaves(network.params)[0].devices()
  image = jnp.zeros((1, *input_shape(network.config)), jnp.float32)
  init = jax.jit(network.model.init)
  return jax.device_put(init(jax.random.key(seed), image), device)


def average_cells(maps: jax.Array, largest: int) -> jax.Array:
  """Averages maps over a grid of cells to reduce their size.

  Args:
    maps: [images, height, width, channels]; or [images, dimensions], which are
      unchanged.
    largest: most numbers per image; at least one cell remains.

  Returns:
    [images, dimensions] float32. Cells overlap by a row or column if their
    number does not divide the pixels.
  """
  if maps.ndim == 4:
    _, height, width, channels = maps.shape
    side = min(height, width)
    while side > 1 and side * side * channels > largest:
      side -= 1
    # Small maps stay as they are.
    if height * width * channels > largest:
      rows, columns = _averaging(height, side), _averaging(width, side)
      maps = jnp.einsum(
          'nhwc,ih,jw->nijc', maps, rows, columns, precision='highest'
      )
  return maps.reshape(len(maps), -1).astype(jnp.float32)


@functools.cache
def _averaging(pixels, cells):
  """[cells, pixels] matrix from pixels in a row to means over cells."""
  matrix = np.zeros((cells, pixels), np.float32)
  for cell in range(cells):
    start, end = cell * pixels // cells, -(-(cell + 1) * pixels // cells)
    matrix[cell, start:end] = 1 / (end - start)
  return matrix
