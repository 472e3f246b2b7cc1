"""Iterates over blocks of vectors that need not fit into memory."""

from collections.abc import Iterator

import numpy as np

# Bytes of a block as float32.
_BYTES = 2**26


def rows_of(dimensions: int) -> int:
  """Number of rows in a block, for rows of a number of dimensions."""
  return max(1, _BYTES // (4 * dimensions))


def each(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (first row, [rows, dimensions] float32) of all vectors, in order."""
  rows = rows_of(vectors.shape[1])
  for start in range(0, len(vectors), rows):
    yield start, np.asarray(vectors[start : start + rows], np.float32)


def sample(vectors: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
  """Draws rows uniformly without replacement; all if there are fewer.

  Args:
    vectors: [rows, dimensions].
    count: number of rows.
    seed: seed of the selection.

  Returns:
    [at most count, dimensions] float32, in their order.
  """
  if len(vectors) <= count:
    return np.asarray(vectors, np.float32)
  chosen = np.random.default_rng(seed).choice(
      len(vectors), count, replace=False, shuffle=False
  )
  out = np.empty((count, vectors.shape[1]), np.float32)
  chosen.sort()
  # Block by block, because indexing by numbers copies.
  step = rows_of(vectors.shape[1])
  for start in range(0, count, step):
    out[start : start + step] = vectors[chosen[start : start + step]]
  return out
