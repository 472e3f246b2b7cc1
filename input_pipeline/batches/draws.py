"""Draws which image, crop, mirroring and colour an example of training has.

Training is one endless stream of examples. All that is random about example i
comes from blocks of TensorFlow's counter-based Philox generator: from number i,
from that of its epoch, from that of the group that it shares a crop with. So
any batch size, any division among processes and any step to resume at give the
same stream.

`example` is [count] int64, numbers that follow each other, `seed` the run's.
"""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from input_pipeline.files.tensorflow_cpu import tf

# How it is done: a run goes on only with what it began with.
METHOD = 'index_shuffle'
# Of the cipher that shuffles. With 4, TensorFlow's default, neighbours of an
# epoch are neighbours in the next, 144 standard deviations more often than by
# chance (ImageNet's 1,281,167 images); with 8 no test tells them from chance.
_ROUNDS = 16
# What a block is for: the upper half of the counter.
_ORDER, _CROP, _LIGHTING = range(3)
_PHILOX = 1  # TensorFlow's number of the algorithm, Philox 4x32-10.


class Draws(NamedTuple):
  """What some examples of the stream are: tensors, or arrays.

  Attributes:
    index: [count] int64, which image of the training set.
    offset: [count, 2] int32, (top, left) of its crop.
    flip: [count] bool, whether the crop is mirrored.
    shift: [count, 3] float32, its colour shift, levels of 0..255.
    divisor: [count] float32, what its values are divided by in the end.
  """

  index: Any
  offset: Any
  flip: Any
  shift: Any
  divisor: Any


def draw(
    example: tf.Tensor,
    *,
    seed: int,
    length: int,
    augmentation: ml_collections.ConfigDict,
    axes: np.ndarray,
    lit: tf.Tensor | bool,
) -> Draws:
  """Draws all of some examples.

  Args:
    example: see above.
    seed: likewise.
    length: images in the training set.
    augmentation: of the config.
    axes: from `lighting_axes`.
    lit: whether they have PCA lighting, if the config has any.
  """
  offset, flip = crops(
      seed,
      example // augmentation.images_per_crop,
      augmentation.crop_offsets,
      augmentation.flip,
  )
  lit = tf.logical_and(lit, augmentation.lighting != 'none')
  divisor = tf.where(lit, float(augmentation.lighting_divisor), 1.0)
  return Draws(
      shuffled(seed, example, length),
      offset,
      flip,
      tf.where(lit, colour_shifts(seed, example, axes), 0.0),
      tf.fill(example.shape, divisor),
  )


def shuffled(seed: int, example: tf.Tensor, length: int) -> tf.Tensor:
  """[count] int64: each of `length` images once an epoch, in random order."""
  keys = _words(seed, _ORDER, example // length)
  # The public wrapper takes no vector of seeds.
  return tf.raw_ops.RandomIndexShuffle(
      index=example % length,
      seed=keys[:, :3],
      max_index=tf.fill(example.shape, np.int64(length - 1)),
      rounds=_ROUNDS,
  )


def crops(
    seed: int, group: tf.Tensor, offsets: int, flip: bool
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws crops and mirrorings (paper §4.1).

  Args:
    seed: of the run.
    group: [count] int64, ascending without gaps: examples of the same group
      share their crop.
    offsets: number of offsets each way: 32 in the paper, 33 in the code.
    flip: whether to mirror half of them.

  Returns:
    ([count, 2] int32 offsets (top, left), [count] bool whether mirrored).
  """
  words = tf.cast(_words(seed, _CROP, group), tf.int64)
  # A 32-bit fraction times the number of offsets.
  offset = tf.cast(words[:, :2] * offsets // 2**32, tf.int32)
  return offset, tf.logical_and(words[:, 2] >= 2**31, flip)


def colour_shifts(
    seed: int, example: tf.Tensor, axes: np.ndarray
) -> tf.Tensor:
  """[count, 3] float32 colours of PCA lighting, levels of 0..255 (§4.1)."""
  normal = _blocks(
      tf.raw_ops.StatelessRandomNormalV2, seed, _LIGHTING, example
  )
  # No matrix product: its rounding may depend on the number of rows.
  one, two, three = tf.split(normal[:, :3], 3, axis=1)
  return one * axes[0] + two * axes[1] + three * axes[2]


def lighting_axes(
    kind: str, scale: float, deviations: np.ndarray, eigenvectors: np.ndarray
) -> np.ndarray:
  """What lighting adds for a draw of 1 along each principal component.

  Args:
    kind: 'standard_deviation' (run #145): sd * scale, in levels of 0..255.
      'eigenvalue' (paper, on pixels in 0..1): sd^2 / 255 * scale, which is 255
      times the eigenvalue of pixels divided by 255. 'none': not used.
    scale: standard deviation of the random factors, 0.1.
    deviations: [3] standard deviations along the components, levels of 0..255.
    eigenvectors: [3, 3], a component a column.

  Returns:
    [3, 3] float32, a component a row, levels of 0..255.
  """
  lengths = np.asarray(deviations, np.float64)
  if kind == 'eigenvalue':
    lengths = lengths**2 / 255
  return (scale * lengths * eigenvectors).T.astype(np.float32)


def _words(seed, use, numbers):
  operation = tf.raw_ops.StatelessRandomUniformFullIntV2
  return _blocks(operation, seed, use, numbers, dtype=tf.uint32)


def _blocks(operation, seed, use, numbers, **options):
  """[count, 4], the block of each number; these ascend without gaps."""
  first = numbers[0]
  blocks = operation(
      shape=[numbers.shape[0], 4],
      key=tf.constant([seed % 2**64], tf.uint64),
      counter=tf.stack([tf.cast(first, tf.uint64), np.uint64(use)]),
      alg=_PHILOX,
      **options,
  )
  return tf.gather(blocks, numbers - first)
