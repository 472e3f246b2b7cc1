"""Writes files atomically, whenever a process is killed."""

import contextlib
import fcntl
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

_SUFFIX = '.tmp'


def write(
    path: pathlib.Path,
    write_to: Callable[[BinaryIO], object],
    scratch: pathlib.Path,
) -> None:
  """Writes a file aside and renames it.

  Args:
    path: of the file.
    write_to: writes what it is given.
    scratch: a folder on the same disk for the file until it is complete.
  """
  with opened(path, scratch) as f:
    write_to(f)


@contextlib.contextmanager
def opened(path: pathlib.Path, scratch: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file for writing; it appears when complete.

  It gets its name, and what had that name is gone, when the context ends; if it
  ends with an error there is nothing of it.

  Args:
    path: see `write`.
    scratch: see `write`.
  """
  # Processes of different machines may have the same number.
  temporary = scratch / f'{path.name}.{uuid.uuid4().hex}{_SUFFIX}'
  try:
    with _open_locked(temporary) as f:
      yield f
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a small file that no other process writes at the same time.

  After a power cut it is as it was or complete; without the wait for the disk
  it could be empty, as the new name may get there before the text.

  Args:
    path: of the file. The one beside it that ends in .tmp is overwritten.
    text: of the whole file.
  """
  temporary = path.with_suffix(_SUFFIX)
  with open(temporary, 'w') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def _open_locked(path: pathlib.Path) -> BinaryIO:
  """Opens a new file, locked to show that a process is writing it."""
  while True:
    f = open(path, 'wb')
    # Some network disks cannot.
    with contextlib.suppress(OSError):
      fcntl.flock(f, fcntl.LOCK_EX)
    # Between the two lines `remove_stale` of another process may have taken it.
    if path.exists():
      return f
    f.close()


def remove_stale(scratch: pathlib.Path) -> None:
  """Removes unfinished files of killed processes."""
  for path in scratch.glob(f'*{_SUFFIX}'):
    with contextlib.suppress(OSError), open(path, 'rb') as f:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink()
