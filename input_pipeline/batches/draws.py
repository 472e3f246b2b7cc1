"""Draws image, crop, mirroring and colour of training examples.

Training is one endless stream of examples. The random numbers of example i come
from blocks of TensorFlow's counter-based Philox generator, numbered by i, by
its epoch, or by the group that shares its crop. So the stream is the same for
any batch size, any division among processes and any step to resume from.

`example` is [count] int64, consecutive numbers; `seed` is the run's.
"""

import functools
import operator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.images import crops as crops_lib

# The method of shuffling; a run can only continue with its own.
METHOD = 'index_shuffle'
# Rounds of the cipher that shuffles. With TensorFlow's default of 4, neighbours
# in one epoch are neighbours in the next far too often; with 8 or more, tests
# find no difference from chance.
_ROUNDS = 16
# The purpose of a block: the upper half of the counter.
_ORDER, _CROP, _LIGHTING = range(3)
# Blocks of tries of an area and an aspect, two to a block.
_TRIES = range(3, 3 + crops_lib.TRIES // 2)
_PHILOX = 1  # TensorFlow's number for Philox 4x32-10.


class Draws(NamedTuple):
  """Random draws for some examples, as tensors or arrays.

  Attributes:
    index: [count] int64, index of the image in the training set.
    offset: [count, 2] int32, (top, left) of its crop; 0 for regions.
    flip: [count] bool, whether the crop is mirrored.
    shift: [count, channels] float32, its colour shift, in levels of 0..255.
    divisor: [count] float32, divides the result.
    words: [count, n] uint32, random words of the crop's region, see
      `region_words`.
  """

  index: Any
  offset: Any
  flip: Any
  shift: Any
  divisor: Any
  words: Any


def draw(
    example: tf.Tensor,
    *,
    seed: int,
    length: int,
    augmentation: ml_collections.ConfigDict,
    axes: np.ndarray,
    lit: tf.Tensor | bool,
) -> Draws:
  """Draws everything for some examples.

  Args:
    example: see above.
    seed: see above.
    length: number of images in the training set.
    augmentation: section of the config.
    axes: see `lighting_axes`.
    lit: whether to apply the config's PCA lighting.
  """
  group = example // augmentation.images_per_crop
  in_square = augmentation.crop not in crops_lib.KINDS
  offset, flip = crops(
      seed,
      group,
      augmentation.crop_offsets if in_square else 1,
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
      region_words(seed, group, augmentation.crop),
  )


def shuffled(seed: int, example: tf.Tensor, length: int) -> tf.Tensor:
  """Returns [count] int64 indices; an epoch has each of `length` images."""
  keys = _words(seed, _ORDER, example // length)
  # The public wrapper does not accept a vector of seeds.
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
    seed: seed of the run.
    group: [count] int64, ascending without gaps; examples of a group share
      their crop.
    offsets: number of offsets along each axis: 32 in the paper, 33 in the code.
    flip: whether to mirror half of them.

  Returns:
    ([count, 2] int32 offsets (top, left), [count] bool flips).
  """
  words = tf.cast(_words(seed, _CROP, group), tf.int64)
  # A 32-bit fraction times the number of offsets.
  offset = tf.cast(words[:, :2] * offsets // 2**32, tf.int32)
  return offset, tf.logical_and(words[:, 2] >= 2**31, flip)


def region_words(seed: int, group: tf.Tensor, kind: str) -> tf.Tensor:
  """Draws the words that become regions in `images/crops.py`.

  Args:
    seed: seed of the run.
    group: see `crops`.
    kind: `augmentation.crop` of a config.

  Returns:
    [count, n] uint32. The first four are for the top, the left, the mirroring
    and the scale; for areas, pairs for an area and an aspect follow. None for
    crops at offsets.
  """
  uses = {'scale': (_CROP,), 'area': (_CROP, *_TRIES)}.get(kind, ())
  none = tf.zeros([*group.shape, 0], tf.uint32)
  return tf.concat([none, *(_words(seed, use, group) for use in uses)], axis=1)


def colour_shifts(
    seed: int, example: tf.Tensor, axes: np.ndarray
) -> tf.Tensor:
  """PCA lighting's colours, [count, channels] float32, 0..255 (§4.1)."""
  normal = _blocks(
      tf.raw_ops.StatelessRandomNormalV2, seed, _LIGHTING, example
  )
  # No matrix product, whose rounding may depend on the number of rows.
  factors = tf.split(normal[:, : len(axes)], len(axes), axis=1)
  return functools.reduce(operator.add, map(operator.mul, factors, axes))


def lighting_axes(
    kind: str, scale: float, deviations: np.ndarray, eigenvectors: np.ndarray
) -> np.ndarray:
  """Returns the colour shift along each principal component for a draw of 1.

  Args:
    kind: 'standard_deviation' (run #145): sd * scale, in levels of 0..255.
      'eigenvalue' (paper, on pixels in 0..1): sd^2 / 255 * scale, which is 255
      times the eigenvalue of pixels divided by 255. 'none': not used.
    scale: standard deviation of the random factors, 0.1.
    deviations: [channels] standard deviations along the components, levels of
      0..255.
    eigenvectors: [channels, channels], a component a column.

  Returns:
    [channels, channels] float32, one component per row, levels of 0..255.
  """
  lengths = np.asarray(deviations, np.float64)
  if kind == 'eigenvalue':
    lengths = lengths**2 / 255
  return (scale * lengths * eigenvectors).T.astype(np.float32)


def _words(seed, use, numbers):
  operation = tf.raw_ops.StatelessRandomUniformFullIntV2
  return _blocks(operation, seed, use, numbers, dtype=tf.uint32)


def _blocks(operation, seed, use, numbers, **options):
  """Returns [count, 4] blocks of `numbers`, which ascend without gaps."""
  first = numbers[0]
  blocks = operation(
      shape=[numbers.shape[0], 4],
      key=tf.constant([seed % 2**64], tf.uint64),
      counter=tf.stack([tf.cast(first, tf.uint64), np.uint64(use)]),
      alg=_PHILOX,
      **options,
  )
  return tf.gather(blocks, numbers - first)
