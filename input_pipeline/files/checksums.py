"""Compares files by SHA-256."""

import collections
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence

from input_pipeline.errors import DataError

# Bytes of a file that differ where photos do.
HEAD = 2**16


class TooMuchError(Exception):
  """Comparing files would take too long."""


def of_file(path: str | os.PathLike) -> str:
  """The SHA-256 of a file, in hexadecimal digits; OSError if it is not read."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def find_copies(
    sizes: Sequence[int | None],
    read: Callable[[int, int | None], bytes],
    most: float = math.inf,
) -> list[list[int]]:
  """Groups equal files; only those of a size that another has are read.

  Of these the beginnings first, and the whole of those that begin equally.

  Args:
    sizes: of the files, in bytes; None of one that is equal to no other.
    read: reads the first bytes of a file, as many as are given, or all.
    most: bytes to read.

  Returns:
    The indices of each group of two or more, in order of the first. Files that
    cannot be read are in none.

  Raises:
    TooMuchError: it takes more bytes.
  """
  left = most

  def contents(indices, count) -> Iterator[tuple[int, bytes]]:
    nonlocal left
    for index in indices:
      left -= min(sizes[index], count or sizes[index])
      if left < 0:
        raise TooMuchError(f'more than {most / 1e9:.0f} GB to read')
      try:
        yield index, hashlib.sha256(read(index, count)).digest()
      except DataError:
        continue  # It will be told of when it is used.

  of_size = ((i, size) for i, size in enumerate(sizes) if size is not None)
  found = []
  for indices in _groups(of_size):
    for begin_equally in _groups(contents(indices, HEAD)):
      whole = sizes[begin_equally[0]] <= HEAD
      found += [begin_equally] if whole else _groups(
          contents(begin_equally, None)
      )
  return sorted(found)


def _groups(pairs):
  """Indices with equal keys, of two or more, from (index, key)."""
  groups = collections.defaultdict(list)
  for index, key in pairs:
    groups[key].append(index)
  return [indices for indices in groups.values() if len(indices) > 1]
