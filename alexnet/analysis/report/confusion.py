"""Confusion matrices, for ten classes or a thousand."""

import dataclasses
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
  """Images of one class that were predicted as another."""

  true: int
  predicted: int
  count: int  # Number of such images.
  of: int  # Number of images of the true class.
  images: tuple[int, ...]  # Their indices, most confident mistake first.


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Counts [true class, predicted class] int64."""

  counts: np.ndarray

  @property
  def totals(self) -> np.ndarray:
    """[classes] number of images of each class."""
    return self.counts.sum(axis=1)

  @property
  def shares(self) -> np.ndarray:
    """[classes, classes] float64 shares of each row; 0 for missing classes."""
    return self.counts / np.maximum(self.totals, 1)[:, None]

  @property
  def accuracies(self) -> np.ndarray:
    """[classes] float64 top-1 accuracies; NaN for classes without images."""
    return np.where(self.totals > 0, np.diag(self.shares), np.nan)

  def in_blocks(self, largest: int) -> np.ndarray:
    """Reduces the shares to blocks, so that many classes can be drawn.

    Args:
      largest: most rows and columns of the result.

    Returns:
      [blocks, blocks] float64, the largest share in each block of neighbouring
      classes; a mean would hide single cells.
    """
    block = -(-len(self.counts) // largest)
    starts = np.arange(0, len(self.counts), block)
    rows = np.maximum.reduceat(self.shares, starts, axis=0)
    return np.maximum.reduceat(rows, starts, axis=1)


def count(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
  """Counts confusions; true and predicted classes are [images] each."""
  counts = np.bincount(labels * classes + predicted, minlength=classes**2)
  return Confusion(counts.reshape(classes, classes))


def worst_pairs(
    confusion: Confusion,
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    *,
    pairs: int,
    images: int,
) -> list[Pair]:
  """Finds the pairs of classes with the largest shares of confusions.

  Args:
    confusion: confusions of these images.
    labels: [images] int, the true classes.
    predicted: [images] int, the predicted classes.
    confidence: [images] probability of the predicted class.
    pairs: most pairs to return; each has at least one image.
    images: most images of each pair.
  """
  wrong = confusion.shares
  np.fill_diagonal(wrong, 0)
  # Ties are broken by the number of images.
  order = np.lexsort((-confusion.counts.ravel(), -wrong.ravel()))
  chosen = []
  for true, guess in zip(*np.unravel_index(order[:pairs], wrong.shape)):
    if not wrong[true, guess]:
      break
    places = np.flatnonzero((labels == true) & (predicted == guess))
    places = places[np.argsort(-confidence[places], kind='stable')][:images]
    counts = confusion.counts[true, guess], confusion.totals[true]
    chosen.append(Pair(
        int(true), int(guess), *map(int, counts), tuple(places.tolist())
    ))
  return chosen
