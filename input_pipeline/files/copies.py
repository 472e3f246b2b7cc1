"""Finds files that are equal to the byte."""

import collections
import hashlib
from collections.abc import Callable, Sequence

from input_pipeline.errors import DataError


def find(
    sizes: Sequence[int | None], read: Callable[[int], bytes]
) -> list[list[int]]:
  """Groups equal files; only those of a size that another has are read.

  Args:
    sizes: of the files, in bytes; None of one that is equal to no other.
    read: reads a file.

  Returns:
    The indices of each group of two or more, in order. Files that cannot be
    read are in none.
  """
  of_size = collections.defaultdict(list)
  for index, size in enumerate(sizes):
    if size is not None:
      of_size[size].append(index)
  groups = collections.defaultdict(list)
  for size, indices in of_size.items():
    for index in indices if len(indices) > 1 else ():
      try:
        content = hashlib.sha256(read(index)).digest()
      except DataError:
        continue  # It will be told of when it is used.
      groups[size, content].append(index)
  return [indices for indices in groups.values() if len(indices) > 1]
