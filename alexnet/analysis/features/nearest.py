"""The nearest of many vectors or binary codes, block by block.

Memory is for one block of vectors and the best so far, whatever their number.
"""


import numpy as np

from alexnet.analysis.features import blocks

# Codes that are compared at a time; a distance takes 2 bytes.
_CODES = 2**18
# Of vectors that are kept as float32 if they are not mapped as such.
_CONVERTED_BYTES = 2**30
_TABLE = np.array([n.bit_count() for n in range(2**16)], np.uint8)


class Euclidean:
  """Exact search, by scikit-learn (paper §6.1)."""

  def __init__(self, index: np.ndarray):
    """Prepares the search once for all queries, if memory allows that.

    Args:
      index: [vectors, dimensions] float32 or float16; may be mapped into
        memory.
    """
    self._index = index
    # What is float32 is searched where it lies. Half-precision numbers have to
    # be converted, and are kept so if they are few.
    kept = index.dtype == np.float32 or 4 * index.size <= _CONVERTED_BYTES
    self._parts = [*self._prepare()] if kept else None

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds the vectors nearest to each query.

    Args:
      queries: [queries, dimensions].
      count: of neighbours; at most the number of vectors.

    Returns:
      (distances [queries, count] float32, ascending; rows of the index
      [queries, count] int64).
    """
    queries = np.asarray(queries, np.float32)
    best = _nothing_yet(len(queries), count, np.float32)
    for start, size, part in self._parts or self._prepare():
      distances, rows = part.kneighbors(queries, min(count, size))
      best = _merge(best, distances, rows + start, count)
    return best

  def _prepare(self):
    """Yields (first row, rows, what searches them), part by part."""
    from sklearn import neighbors  # Slow to import.

    for start, block in blocks.each(self._index):
      fitted = neighbors.NearestNeighbors(algorithm='brute').fit(block)
      yield start, len(block), fitted


def pack(bits: np.ndarray) -> np.ndarray:
  """[codes, bits] booleans as [codes, bits / 8] uint8."""
  return np.packbits(bits, axis=1)


class Hamming:
  """Search for the codes that differ in the fewest bits."""

  def __init__(self, index: np.ndarray):
    """Prepares the search once for all queries.

    Args:
      index: [codes, bytes] uint8, bytes divisible by 2, as from `pack`.
    """
    self._length = len(index)
    # One array for each word, which is faster to go through than rows.
    self._parts = [
        np.ascontiguousarray(_words(index[start : start + _CODES]).T)
        for start in range(0, len(index), _CODES)
    ]

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest codes; of equally near ones the first comes first.

    Args:
      queries: [queries, bytes] uint8.
      count: of neighbours; at most the number of codes.

    Returns:
      (bits that differ [queries, count] uint16, ascending; rows of the index
      [queries, count] int64).
    """
    wanted = np.ascontiguousarray(_words(queries))
    worst = np.iinfo(np.uint16).max
    distances, rows = _nothing_yet(len(queries), count, np.uint16)
    for part, words in enumerate(self._parts):
      for number, query in enumerate(wanted):
        differ = _differences(words, query)
        # Of those equally near the earlier ones are there already.
        near = np.flatnonzero(differ < distances[number, -1])
        if not len(near):
          continue
        near = _smallest(differ, near, count)
        distances[number], rows[number] = (
            merged[0]
            for merged in _merge(
                (distances[number : number + 1], rows[number : number + 1]),
                differ[None, near],
                near[None] + part * _CODES,
                count,
            )
        )
    assert not self._length or (distances != worst).all()
    return distances, rows


def precision(
    found: np.ndarray, labels: np.ndarray, wanted: np.ndarray
) -> float:
  """Precision@k: the share of neighbours that are of their query's class.

  Args:
    found: [queries, k] rows of the index.
    labels: [vectors] of the index.
    wanted: [queries] labels.
  """
  return float((labels[found] == wanted[:, None]).mean())


def _nothing_yet(queries, count, dtype):
  most = np.inf if dtype == np.float32 else np.iinfo(dtype).max
  shape = (queries, count)
  return np.full(shape, most, dtype), np.full(shape, -1, np.int64)


def _merge(best, distances, rows, count):
  distances = np.concatenate([best[0], distances], axis=1, dtype=best[0].dtype)
  rows = np.concatenate([best[1], rows], axis=1)
  # Unused places come behind all others.
  order = np.lexsort((rows.astype(np.uint64), distances), axis=1)[:, :count]
  take = lambda values: np.take_along_axis(values, order, axis=1)
  return take(distances), take(rows)


def _words(codes):
  """[codes, bytes] as fewer and longer words; a distance is the same."""
  codes = np.ascontiguousarray(codes)
  width = next(n for n in (8, 4, 2) if codes.shape[1] % n == 0)
  return codes.view(f'u{width}')


def _differences(words, query):
  """Bits in which codes, [words, codes], differ from one: [codes] uint16."""
  differ = np.zeros(words.shape[1], np.uint16)
  for word, wanted in zip(words, query):
    differ += _bit_count(word ^ wanted)
  return differ


def _bit_count(words):
  if hasattr(np, 'bitwise_count'):  # NumPy 2.
    return np.bitwise_count(words)
  return _bit_count_by_table(words)


def _bit_count_by_table(words):
  halves = words[:, None].view(np.uint16)
  return _TABLE[halves].sum(axis=1, dtype=np.uint8)


def _smallest(differ, near, count):
  """The count first of `near` in the order of (difference, place)."""
  if len(near) <= count:
    return near
  places = differ[near].astype(np.int64) * len(differ) + near
  return near[np.argpartition(places, count - 1)[:count]]
