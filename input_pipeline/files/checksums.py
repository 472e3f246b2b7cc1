"""Files compared by their content, of which SHA-256 stands for all bytes."""

import collections
import hashlib
import os
from collections.abc import Callable, Sequence

from input_pipeline.errors import DataError


def of_file(path: str | os.PathLike) -> str:
  """The SHA-256 of a file, in hexadecimal digits; OSError if it is not read."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def find_copies(
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
