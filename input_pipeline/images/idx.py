"""Reads IDX files, the format of MNIST and Fashion-MNIST.

Two zero bytes, the type of the elements, the number of dimensions, the size of
each (big-endian, 32 bits), then the elements; the whole compressed by gzip, or
not. What a header states is compared with the bytes that follow.
"""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

from input_pipeline.errors import DataError, printable
from input_pipeline.files import untrusted

# Begins of names; MNIST's test set is the 10,000 of '10k'.
SETS = {'train': 'train', 'evaluation': 't10k'}
_ENDS = '{}-idx{}-ubyte', '{}.idx{}-ubyte'
_BYTE = 8  # The type uint8.
_GZIP = b'\x1f\x8b'
# A compressed file may be this many times as large, or _SMALLEST_LIMIT bytes.
LARGEST_RATIO = 100
_SMALLEST_LIMIT = 2**26
_PIECE = 2**22


def find(
    directory: pathlib.Path, set_name: str, what: str, dimensions: int
) -> pathlib.Path | None:
  """Finds a file of a set under its usual names; None if there is none.

  Args:
    directory: folder of the files.
    set_name: key of SETS.
    what: 'images' or 'labels'.
    dimensions: number of dimensions of the array, part of the name.
  """
  for end in _ENDS:
    name = end.format(f'{SETS[set_name]}-{what}', dimensions)
    for path in (directory / name, directory / f'{name}.gz'):
      if path.is_file():
        return path
  return None


def read(path: pathlib.Path, dimensions: int) -> np.ndarray:
  """Reads an array of uint8.

  Args:
    path: path of the file.
    dimensions: number of dimensions that the array must have.

  Raises:
    DataError: it is no such file, is incomplete or has more than its header
      says; the message names it.
  """
  try:
    with untrusted.open_file(path, untrusted.MAX_ARRAYS) as file:
      size = path.stat().st_size
      is_gzip = file.read(2) == _GZIP
      file.seek(0)
      if not is_gzip:
        return _array(file, dimensions, untrusted.MAX_ARRAYS)
      limit = max(_SMALLEST_LIMIT, LARGEST_RATIO * size)
      with gzip.GzipFile(fileobj=file) as plain:
        return _array(plain, dimensions, min(limit, untrusted.MAX_ARRAYS))
  except (OSError, ValueError, EOFError, zlib.error) as error:
    reason = getattr(error, 'strerror', None) or str(error)
    raise DataError(
        f'cannot read {printable(str(path))} ({reason}): expected an IDX file '
        f'of {dimensions} dimension(s), as MNIST has them: copy it again'
    ) from error


def _array(file, dimensions, limit):
  """Reads the array of an open file of at most `limit` bytes."""
  head = file.read(4)
  if len(head) < 4 or head[:2] != b'\0\0':
    raise untrusted.UnreadableError(
        f'it begins with {head.hex() or "nothing"}, expected two zero bytes'
    )
  if head[2:] != bytes([_BYTE, dimensions]):
    raise untrusted.UnreadableError(
        f'it has elements of type {head[2]} in {head[3]} dimension(s), '
        f'expected {_BYTE} (bytes) in {dimensions}'
    )
  sizes = file.read(4 * dimensions)
  if len(sizes) < 4 * dimensions:
    raise untrusted.UnreadableError('it ends in its header')
  shape = struct.unpack(f'>{dimensions}I', sizes)
  stated, data = math.prod(shape), bytearray()
  described = ' x '.join(map(str, shape))
  if stated > limit:
    raise untrusted.UnreadableError(
        f'its header says {described} bytes, expected at most {limit:,}'
    )
  # In pieces: memory for what is there, not for what is stated.
  while piece := file.read(min(_PIECE, stated + 1 - len(data))):
    data += piece
  if len(data) != stated:
    found = 'more' if len(data) > stated else f'{len(data):,}'
    raise untrusted.UnreadableError(
        f'its header says {described} bytes, {found} follow'
    )
  return np.frombuffer(bytes(data), np.uint8).reshape(shape)
