"""Reads untrusted files as data, within limits.

Weights, features, statistics and prepared data are shared between people. These
functions read only text, JSON, and arrays of numbers or text: no pickle and no
code. They use no more memory than the file's size, whatever it declares. Images
are read by decoding.py.
"""

import json
import math
import os
import stat
import zipfile
from typing import Any, BinaryIO

import numpy as np

# Most bytes of a text, and of a JSON file, which takes up to thirty times as
# many as Python objects.
MAX_TEXT = 2**26
MAX_JSON = 2**24
# Most bytes of all arrays read from one file; mapped arrays may have any size.
MAX_ARRAYS = 2**30
_MAX_MEMBERS = 64
# Digits of a whole number in JSON; no field here needs more.
_MAX_DIGITS = 20
# Numbers, booleans and text; not 'O', objects, which would need a pickle.
_KINDS = 'biufU'
_PIECE = 2**22


class UnreadableError(ValueError):
  """A file is invalid; the message says why, without its name."""


def open_file(path: str | os.PathLike, limit: int | None = None) -> BinaryIO:
  """Opens a regular file, and refuses pipes and devices.

  Args:
    path: path of the file.
    limit: largest allowed size in bytes; None for no limit.

  Raises:
    OSError: the file cannot be opened.
    UnreadableError: it is not a regular file, or exceeds the limit.
  """
  # Opening a pipe would wait for its writer.
  descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
  status = os.fstat(descriptor)
  if stat.S_ISDIR(status.st_mode):
    os.close(descriptor)
    raise IsADirectoryError(21, 'Is a directory', str(path))
  if not stat.S_ISREG(status.st_mode):
    os.close(descriptor)
    raise UnreadableError('it is not a file')
  if limit is not None and status.st_size > limit:
    os.close(descriptor)
    raise UnreadableError(
        f'it has {status.st_size:,} bytes, expected at most {limit:,}'
    )
  return os.fdopen(descriptor, 'rb')


def read_text(path: str | os.PathLike, limit: int = MAX_TEXT) -> str:
  """Reads a UTF-8 text; raises as `open_file`, and UnicodeDecodeError."""
  with open_file(path, limit) as f:
    return f.read(limit).decode('utf-8')


def read_json(path: str | os.PathLike, limit: int = MAX_JSON) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Raises:
    OSError: the file cannot be opened.
    UnreadableError: it is too large, nested too deeply, not JSON, not an
      object, or has a number that is not finite or has more than 20 digits.
  """
  values = parse_json(read_bytes(path, limit))
  if not isinstance(values, dict):
    raise UnreadableError(
        f'it holds {_json_kind(values)}, expected an object, {{...}}'
    )
  return values


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
  """Reads a file; see `open_file`."""
  with open_file(path, limit) as f:
    return f.read(limit)


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
  """Parses JSON of bounded length; see `read_json`.

  Args:
    text: the JSON.
    finite: whether all numbers have to be finite.
  """
  options = {'parse_int': _whole}
  if finite:
    options |= {'parse_constant': _refuse_constant, 'parse_float': _finite}
  try:
    return json.loads(text, **options)
  except RecursionError as error:
    raise UnreadableError('it is nested too deeply') from error
  except UnicodeDecodeError as error:
    raise UnreadableError('it is not text') from error


def _refuse_constant(name):
  raise UnreadableError(f'it has {name}, expected finite numbers')


def _finite(text):
  value = float(text)
  if not math.isfinite(value):
    _refuse_constant(text[:_MAX_DIGITS])
  return value


def _whole(text):
  if len(text) > _MAX_DIGITS:
    raise UnreadableError(f'it has a number of {len(text)} digits')
  return int(text)


def _json_kind(value):
  kinds = {list: 'a list', str: 'a text', bool: 'a truth', type(None): 'null'}
  return kinds.get(type(value), 'a number')


def take(values: Any, path: str, *kinds: type) -> Any:
  """Takes a field from the object of a JSON file.

  Args:
    values: the object.
    path: dotted path of the field.
    *kinds: types that the field may have. A whole number is also a float.

  Raises:
    UnreadableError: the field is missing or of another type.
  """
  for name in path.split('.'):
    if not isinstance(values, dict) or name not in values:
      raise UnreadableError(f'it has no field {path}')
    values = values[name]
  allowed = (*kinds, int) if float in kinds else kinds
  wrong = isinstance(values, bool) and bool not in kinds
  if wrong or not isinstance(values, allowed):
    wanted = ' or '.join(kind.__name__ for kind in kinds)
    raise UnreadableError(f'{path} is {shown(values)}, expected {wanted}')
  return values


def shown(value: Any) -> str:
  """Shortens a value to one line, for messages."""
  text = repr(value)
  return text if len(text) <= 60 else text[:60] + '...'


def load_arrays(
    path: str | os.PathLike, limit: int = MAX_ARRAYS
) -> dict[str, np.ndarray]:
  """Reads an .npz file.

  Args:
    path: path of the file.
    limit: most bytes of all arrays together.

  Raises:
    OSError, zipfile.BadZipFile, zlib.error: the file cannot be read.
    UnreadableError: an array is not as declared, or not of numbers or text.
  """
  arrays = {}
  with open_file(path) as f, zipfile.ZipFile(f) as archive:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > limit or len(members) > _MAX_MEMBERS:
      raise UnreadableError(
          f'it has {total:,} bytes in {len(members):,} arrays, expected at '
          f'most {limit:,} in {_MAX_MEMBERS}'
      )
    for member in members:
      name = member.filename.removesuffix('.npy')
      if name in arrays:
        raise UnreadableError(f'it has {shown(name)} twice')
      # The output of bzip2 and LZMA is not bounded chunk by chunk.
      if member.compress_type not in (
          zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
      ):
        raise UnreadableError(f'{shown(name)} is compressed in another way')
      with archive.open(member) as data:
        arrays[name] = _read_array(data, member.file_size)
        if data.read(1):
          raise UnreadableError(f'{shown(name)} is longer than it says')
  return arrays


def load_array(
    path: str | os.PathLike, *, mapped: bool = False, limit: int = MAX_ARRAYS
) -> np.ndarray:
  """Reads an .npy file.

  Args:
    path: path of the file.
    mapped: map the file into memory instead, whatever its size.
    limit: largest allowed size in bytes.

  Raises:
    OSError: the file cannot be opened.
    UnreadableError, ValueError: see `load_arrays`.
  """
  with open_file(path, None if mapped else limit) as f:
    size = os.fstat(f.fileno()).st_size
    if not mapped:
      return _read_array(f, size)
    shape, fortran, dtype = _read_header(f, size)
    if 0 in shape:  # Nothing to map.
      return np.zeros(shape, dtype)
    order = 'F' if fortran else 'C'
    return np.memmap(f, dtype, 'r', f.tell(), shape, order)


def _read_header(f, size):
  """(shape, whether in Fortran order, dtype); size: bytes of the file."""
  version = np.lib.format.read_magic(f)
  readers = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise UnreadableError(f'it is of version {version} of the format')
  try:
    shape, fortran, dtype = readers[version](f)
  except Exception as error:  # NumPy evaluates it, with errors of any kind.
    raise UnreadableError(
        f'its header cannot be read ({type(error).__name__})'
    ) from error
  if dtype.kind not in _KINDS or not dtype.itemsize:
    raise UnreadableError(
        f'it has elements of type {shown(dtype.str)}, expected numbers or text'
    )
  # Python's integers do not overflow.
  wanted = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or wanted != size - f.tell():
    raise UnreadableError(
        f'it says it has {shown(shape)} elements of {dtype.itemsize} bytes, '
        f'but {size - f.tell():,} bytes follow'
    )
  return shape, fortran, dtype


def _read_array(f, size):
  shape, fortran, dtype = _read_header(f, size)
  array = np.empty(math.prod(shape), dtype)
  view, place = memoryview(array.view(np.uint8)).cast('B'), 0
  while place < len(view):
    count = f.readinto(view[place : place + _PIECE])
    if not count:
      raise UnreadableError('it ends before its array does')
    place += count
  return array.reshape(shape, order='F' if fortran else 'C')


def check_array(
    name: str, array: np.ndarray, kinds: str, shape: tuple[int | None, ...]
) -> np.ndarray:
  """Checks and returns an array.

  Args:
    name: name for the message.
    array: the array.
    kinds: allowed kinds of dtype, such as 'f' or 'iu'.
    shape: expected shape; None for an axis of any length.

  Raises:
    UnreadableError: the dtype or shape differs, or a number is not finite.
  """
  fits = len(array.shape) == len(shape) and all(
      wanted in (None, got) for got, wanted in zip(array.shape, shape)
  )
  if array.dtype.kind not in kinds or not fits:
    raise UnreadableError(
        f'{name} is {array.dtype} of shape {shown(array.shape)}, expected '
        f'shape {shape} of kind {kinds}'
    )
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    raise UnreadableError(f'{name} has numbers that are not finite')
  return array
