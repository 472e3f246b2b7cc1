"""Logistic regression on frozen features, for new classes (linear probes)."""

import dataclasses
import warnings

import numpy as np

from input_pipeline.errors import UserError

# Candidates for the inverse strength of the regularization, for vectors whose
# squares sum to about one.
STRENGTHS = tuple(10.0**power for power in range(-2, 5))
# Share of training images for choosing among them.
HELD_OUT = 0.2
_ITERATIONS = 1000


class ProbeError(UserError):
  """A probe cannot be trained on these images; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Result:
  """Result of a probe.

  Attributes:
    accuracy: accuracy on the test images, 0..1.
    strength: the chosen value of STRENGTHS.
    dimensions: dimensions of the features.
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

  Features are standardized by the training images. The strength is chosen by
  accuracy on a held-out fifth of these, with ties for the strongest
  regularization; then the probe is trained on all of them.

  Args:
    train: [images, dimensions] float32.
    train_labels: [images] integers.
    test: [images, dimensions] float32.
    test_labels: [images] integers.
    seed: seed of the held-out fifth.

  Raises:
    ProbeError: there are too few images or classes.
  """
  from sklearn import linear_model  # Slow to import.

  dimensions = train.shape[1]
  order = np.random.default_rng(seed).permutation(len(train))
  held_out, rest = np.split(order, [max(1, round(HELD_OUT * len(train)))])
  if len({*train_labels[rest].tolist()}) < 2 or not len(test):
    raise ProbeError(
        f'{len(train)} images to train a probe on, {len(test)} to test it, of '
        f'{len({*train_labels.tolist()})} class(es): expected at least two '
        'classes with several images each'
    )
  train, test = rotated(*standardized(train, test))
  # One split: five folds take five times as long and choose no better.
  model = linear_model.LogisticRegressionCV(
      Cs=STRENGTHS, cv=[(rest, held_out)], max_iter=_ITERATIONS
  )
  # The warning announces a future change of C_.
  with warnings.catch_warnings(action='ignore', category=FutureWarning):
    model.fit(train, train_labels)
  strength = float(np.ravel(model.C_)[0])
  return Result(model.score(test, test_labels), strength, dimensions)


def standardized(
    train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Subtracts means, divides by standard deviations and by sqrt(dimensions).

  Both are those of the training images. The square root makes the squares of a
  vector sum to about one, so that one list of strengths serves all layers.
  Constant features become 0.

  Args:
    train: [images, dimensions] float32.
    test: [images, dimensions] float32.

  Returns:
    Both arrays standardized, float32.
  """
  mean = train.mean(axis=0, dtype=np.float64)
  deviation = train.std(axis=0, dtype=np.float64)
  # Smaller deviations may come from rounding alone.
  varies = deviation > 1e-6 * np.abs(mean)
  factor = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
  factor /= np.sqrt(max(1, train.shape[1]))
  apply = lambda x: ((x - mean) * factor).astype(np.float32)
  return apply(train), apply(test)


def rotated(
    train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Projects vectors to the span of the training images if it is smaller.

  The weights of a regression with an L2 penalty lie in this span, so the result
  is the same in less time: with 2,000 images, 10,000 dimensions become 2,000.
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
