"""Logistic regression on frozen features: how much they say of new classes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet.errors import UserError

# Inverse strengths of the regularization to choose from, for vectors whose
# squares sum to about one.
STRENGTHS = tuple(10.0**power for power in range(-2, 5))
# Of the training images, to choose among them.
HELD_OUT = 0.2
_ITERATIONS = 1000


class ProbeError(UserError):
  """There is nothing that a probe could learn; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Result:
  """What a probe has reached.

  Attributes:
    accuracy: on the test images, 0..1.
    strength: that was chosen, of STRENGTHS.
    dimensions: of the features.
  """

  accuracy: float
  strength: float
  dimensions: int


def fit(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
) -> Result:
  """Trains a probe, and tests it.

  Each feature is standardized by the training images. The strength of the
  regularization is the one that does best on a fifth of these; then all of them
  are used.

  Args:
    train: [images, dimensions] float32.
    train_labels: [images] integers.
    test: [images, dimensions] float32.
    test_labels: [images] integers.
    seed: decides which fifth is held out.

  Raises:
    ProbeError: too few images, or of one class.
  """
  from sklearn import linear_model  # Slow to import.

  dimensions = train.shape[1]
  order = np.random.default_rng(seed).permutation(len(train))
  held_out, rest = np.split(order, [max(1, round(HELD_OUT * len(train)))])
  if len({*train_labels[rest].tolist()}) < 2 or not len(test):
    raise ProbeError(
        f'{len(train)} images to train a probe on, {len(test)} to test it, of '
        f'{len({*train_labels.tolist()})} class(es): wanted at least two '
        'classes with several images each'
    )
  train, test = standardized(train, test)
  train, test = rotated(train, test)
  model = linear_model.LogisticRegression(
      max_iter=_ITERATIONS, tol=1e-4, warm_start=True
  )
  scores = {}
  for strength in STRENGTHS:
    model.set_params(C=strength).fit(train[rest], train_labels[rest])
    scores[strength] = model.score(train[held_out], train_labels[held_out])
  # The strongest regularization of those that do equally well.
  strength = max(scores, key=lambda s: (scores[s], -s))
  model = linear_model.LogisticRegression(
      C=strength, max_iter=_ITERATIONS, tol=1e-4
  ).fit(train, train_labels)
  return Result(model.score(test, test_labels), strength, dimensions)


def standardized(
    train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Each feature less its mean, by its standard deviation, by sqrt(features).

  Mean and standard deviation are of the training images. By the square root,
  the squares of a vector sum to about one, however many features there are, and
  one list of strengths serves all layers. What does not vary becomes 0.

  Args:
    train: [images, dimensions] float32.
    test: [images, dimensions] float32.

  Returns:
    The same, float32.
  """
  mean = train.mean(axis=0, dtype=np.float64)
  deviation = train.std(axis=0, dtype=np.float64)
  # Rounding alone makes such a difference.
  varies = deviation > 1e-6 * np.abs(mean)
  factor = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
  factor /= np.sqrt(max(1, train.shape[1]))
  apply = lambda x: ((x - mean) * factor).astype(np.float32)
  return apply(train), apply(test)


def rotated(
    train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Vectors in the space that the training images span, if that is smaller.

  The weights of a regression with a penalty on their squares lie in it, so
  nothing changes but the work: 10,000 dimensions and 2,000 images are 2,000
  dimensions.
  """
  images, dimensions = train.shape
  if dimensions <= images:
    return train, test
  products = (train @ train.T).astype(np.float64)
  values, vectors = np.linalg.eigh(products)
  real = values > 1e-6 * values[-1]
  # With train = U S V^T: U, S, and train V = U S.
  basis = vectors[:, real] / np.sqrt(values[real])
  rows = lambda products: (products @ basis).astype(np.float32)
  return rows(products), rows((test @ train.T).astype(np.float64))


def average_cells(maps: jax.Array, largest: int) -> jax.Array:
  """Averages maps over a grid of cells, so that few numbers are left.

  Args:
    maps: [images, height, width, channels], or [images, dimensions], which are
      left as they are.
    largest: number of numbers of an image; but one cell is left at least.

  Returns:
    [images, dimensions] float32. Cells overlap by a row or column where their
    number does not divide that of the pixels.
  """
  if maps.ndim == 4:
    _, height, width, channels = maps.shape
    side = min(height, width)
    while side > 1 and side * side * channels > largest:
      side -= 1
    # As it is, if it is small enough.
    if height * width * channels > largest:
      rows, columns = _averaging(height, side), _averaging(width, side)
      maps = jnp.einsum(
          'nhwc,ih,jw->nijc', maps, rows, columns, precision='highest'
      )
  return maps.reshape(len(maps), -1).astype(jnp.float32)


@functools.cache
def _averaging(pixels, cells):
  """[cells, pixels], from pixels in a row to means over cells."""
  matrix = np.zeros((cells, pixels), np.float32)
  for cell in range(cells):
    start, end = cell * pixels // cells, -(-(cell + 1) * pixels // cells)
    matrix[cell, start:end] = 1 / (end - start)
  return matrix
