"""Which classes a network takes for which, for ten classes or a thousand."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pair:
  """Images of one class that were taken for another.

  Attributes:
    true, predicted: the classes.
    count: number of such images.
    of: number of images of the true class.
    images: their places in the set, the most confident mistake first.
  """

  true: int
  predicted: int
  count: int
  of: int
  images: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Counts of (true class, predicted class).

  Attributes:
    counts: [classes, classes] int64; a row a true class.
  """

  counts: np.ndarray

  @property
  def totals(self) -> np.ndarray:
    """[classes] images of each class."""
    return self.counts.sum(axis=1)

  @property
  def shares(self) -> np.ndarray:
    """[classes, classes] float64, each row's parts; 0 for a missing class."""
    totals = np.maximum(self.totals, 1)
    return self.counts / totals[:, None]

  @property
  def accuracies(self) -> np.ndarray:
    """[classes] float64 top-1 of each class; NaN for one without images."""
    correct = np.diag(self.counts).astype(float)
    wanted = np.full(len(correct), np.nan)
    return np.divide(correct, self.totals, out=wanted, where=self.totals > 0)

  def in_blocks(self, largest: int) -> np.ndarray:
    """The shares, made small enough to draw.

    Args:
      largest: rows and columns to have at most.

    Returns:
      [blocks, blocks] float64, the greatest share of each block of
      neighbouring classes: a mean would hide a single cell.
    """
    shares = self.shares
    block = -(-len(shares) // largest)
    if block == 1:
      return shares
    padded = -(-len(shares) // block) * block
    wide = np.zeros((padded, padded))
    wide[: len(shares), : len(shares)] = shares
    blocks = padded // block
    return wide.reshape(blocks, block, blocks, block).max(axis=(1, 3))


def count(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
  """Counts what was taken for what.

  Args:
    labels: [images] int, the true classes.
    predicted: [images] int.
    classes: number of classes.
  """
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
  """The classes that were most often taken for another.

  Args:
    confusion: of these images.
    labels: [images] int, the true classes.
    predicted: [images] int.
    confidence: [images] probability of the predicted class.
    pairs: to return at most.
    images: of each pair at most.

  Returns:
    Pairs with at least one image, by the share of the true class.
  """
  wrong = confusion.shares.copy()
  np.fill_diagonal(wrong, 0)
  # Of equal shares the one with more images.
  order = np.lexsort((-confusion.counts.ravel(), -wrong.ravel()))
  chosen = []
  for true, guess in zip(*np.unravel_index(order[:pairs], wrong.shape)):
    if not wrong[true, guess]:
      break
    places = np.flatnonzero((labels == true) & (predicted == guess))
    places = places[np.argsort(-confidence[places], kind='stable')][:images]
    chosen.append(
        Pair(
            int(true), int(guess), int(confusion.counts[true, guess]),
            int(confusion.totals[true]), tuple(places.tolist()),
        )
    )
  return chosen
