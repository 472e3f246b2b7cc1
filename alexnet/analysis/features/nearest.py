"""Nearest-neighbour search of vectors or binary codes, block by block.

Memory holds one block of vectors and the best results so far.
"""

import numpy as np

from alexnet.analysis.features import blocks

# Number of codes compared at a time.
_CODES = 2**18
# Largest size at which vectors are kept converted to float32.
_CONVERTED_BYTES = 2**30
# Low bits for the row in a sort key whose high bits are the distance.
_ROW_BITS = 40


class Euclidean:
  """Exact search with scikit-learn (paper §6.1)."""

  def __init__(self, index: np.ndarray):
    """Prepares the search once for all queries, if memory suffices.

    Args:
      index: [vectors, dimensions] float32 or float16; may be mapped into
        memory.
    """
    self._index = index
    # Float32 is searched in place. Half precision has to be converted, and
    # stays converted if it is small.
    kept = index.dtype == np.float32 or 4 * index.size <= _CONVERTED_BYTES
    self._parts = [*self._prepare()] if kept else None

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds the vectors nearest to each query.

    Args:
      queries: [queries, dimensions].
      count: number of neighbours; at most the number of vectors.

    Returns:
      (distances [queries, count] float32, ascending; rows of the index
      [queries, count] int64).
    """
    queries = np.asarray(queries, np.float32)
    distances = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start, size, part in self._parts or self._prepare():
      near = part.kneighbors(queries, min(count, size))
      distances = np.concatenate(
          [distances, near[0]], axis=1, dtype=np.float32
      )
      rows = np.concatenate([rows, near[1] + start], axis=1)
      order = np.lexsort((rows, distances), axis=1)[:, :count]
      distances, rows = (
          np.take_along_axis(x, order, axis=1) for x in (distances, rows)
      )
    return distances, rows

  def _prepare(self):
    """Yields (first row, rows, searcher) for each block."""
    from sklearn import neighbors  # Slow to import.

    for start, block in blocks.each(self._index):
      fitted = neighbors.NearestNeighbors(algorithm='brute').fit(block)
      yield start, len(block), fitted


def pack(bits: np.ndarray) -> np.ndarray:
  """Packs [codes, bits] booleans into [codes, bits / 8] uint8."""
  return np.packbits(bits, axis=1)


class Hamming:
  """Search for the codes with the smallest Hamming distance."""

  def __init__(self, index: np.ndarray):
    """Prepares the search for codes [codes, bytes] uint8, as from `pack`."""
    # One array per word, which is faster to scan than rows.
    self._parts = [
        np.ascontiguousarray(_words(index[start : start + _CODES]).T)
        for start in range(0, len(index), _CODES)
    ]

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest codes; ties go to the first.

    Args:
      queries: [queries, bytes] uint8.
      count: number of neighbours; at most the number of codes.

    Returns:
      (Hamming distances [queries, count] uint16, ascending; rows of the index
      [queries, count] int64).
    """
    best = np.full((len(queries), count), np.iinfo(np.int64).max)
    for part, words in enumerate(self._parts):
      for number, query in enumerate(_words(queries)):
        differ = np.zeros(words.shape[1], np.uint16)
        for word, wanted in zip(words, query):
          differ += np.bitwise_count(word ^ wanted)
        # Among equal distances the earlier ones are kept.
        near = np.flatnonzero(differ < best[number, -1] >> _ROW_BITS)
        if len(near):
          keys = differ[near].astype(np.int64) << _ROW_BITS
          keys += near + part * _CODES
          if len(keys) > count:
            keys = np.partition(keys, count - 1)[:count]
          best[number] = np.sort(np.append(best[number], keys))[:count]
    return (best >> _ROW_BITS).astype(np.uint16), best & (1 << _ROW_BITS) - 1


def _words(codes):
  """Views [codes, bytes] as longer words, which have the same distances."""
  width = next(n for n in (8, 4, 2, 1) if codes.shape[1] % n == 0)
  return np.ascontiguousarray(codes).view(f'u{width}')


def precision(
    found: np.ndarray, labels: np.ndarray, wanted: np.ndarray
) -> float:
  """Precision@k: the share of neighbours with the class of their query.

  Args:
    found: [queries, k] rows of the index.
    labels: [vectors] labels of the index.
    wanted: [queries] labels of the queries.
  """
  return float((labels[found] == wanted[:, None]).mean())
