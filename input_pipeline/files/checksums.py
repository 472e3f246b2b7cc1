"""Compares files by SHA-256."""

import collections
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence

from input_pipeline.errors import DataError

# Bytes at the start of a file in which photos differ.
HEAD = 2**16


class TooMuchError(Exception):
  """Comparing files would take too long."""


def of_file(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file, as hexadecimal digits; may raise OSError."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def find_copies(
    sizes: Sequence[int | None],
    read: Callable[[int, int | None], bytes],
    most: float = math.inf,
) -> list[list[int]]:
  """Groups equal files, reading only files whose size another file has.

  Reads their beginnings first, then the whole of files that begin equally.

  Args:
    sizes: sizes of the files in bytes; None for a file to leave out.
    read: reads a file, given its index and the number of first bytes or None.
    most: largest number of bytes to read.

  Returns:
    The indices of each group of two or more, in order of the first. Unreadable
    files are in no group.

  Raises:
    TooMuchError: more than `most` bytes would be read.
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
        continue  # Reported when the file is used.

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
  """Groups indices with equal keys, from pairs (index, key)."""
  groups = collections.defaultdict(list)
  for index, key in pairs:
    groups[key].append(index)
  return [indices for indices in groups.values() if len(indices) > 1]
