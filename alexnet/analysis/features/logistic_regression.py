"""Logistic regression on frozen features, for new classes (linear probes)."""

import dataclasses
import warnings

import numpy as np

from input_pipeline.errors import UserError

# Inverse strengths of the regularization to choose from, for vectors whose
# squares sum to about one.
STRENGTHS = tuple(10.0**power for power in range(-2, 5))
# Of the training images, to choose among them.
HELD_OUT = 0.2
_ITERATIONS = 1000


class ProbeError(UserError):
  """A probe cannot be trained on these images; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Result:
  """Result of a probe.

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
  """Trains and tests a probe with scikit-learn.

  Each feature is standardized by the training images. The strength of the
  regularization is the one that does best on a fifth of these, the strongest if
  several do; then all of them are used.

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
  train, test = rotated(*standardized(train, test))
  # One split: five folds take five times as long and choose as well.
  model = linear_model.LogisticRegressionCV(
      Cs=STRENGTHS, cv=[(rest, held_out)], max_iter=_ITERATIONS
  )
  # Of what C_ will be in other versions.
  with warnings.catch_warnings(action='ignore', category=FutureWarning):
    model.fit(train, train_labels)
  strength = float(np.ravel(model.C_)[0])
  return Result(model.score(test, test_labels), strength, dimensions)


def standardized(
    train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Subtracts means, divides by standard deviations and by sqrt(features).

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
  """Projects vectors to the span of the training images, if that is smaller.

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
