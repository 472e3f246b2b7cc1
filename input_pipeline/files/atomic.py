"""Writes files atomically, even if the process is killed."""

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
  """Writes a temporary file and renames it.

  Args:
    path: path of the file.
    write_to: writes the contents to an open file.
    scratch: folder on the same disk for the unfinished file.
  """
  with opened(path, scratch) as f:
    write_to(f)


@contextlib.contextmanager
def opened(path: pathlib.Path, scratch: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file for writing; it appears when complete.

  The file gets its name, replacing an earlier one, when the context ends. After
  an error there is no new file.

  Args:
    path: see `write`.
    scratch: see `write`.
  """
  # Processes on different machines may have the same process id.
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
  """Replaces a small file that no other process writes at the same time.

  After a power failure the file is unchanged or complete. It is flushed to disk
  before it is renamed; otherwise it could be empty.

  Args:
    path: path of the file. The file beside it with suffix .tmp is overwritten.
    text: contents of the file.
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
    # Some network disks do not support locks.
    with contextlib.suppress(OSError):
      fcntl.flock(f, fcntl.LOCK_EX)
    # `remove_stale` of another process may have removed the file before.
    if path.exists():
      return f
    f.close()


def remove_stale(scratch: pathlib.Path) -> None:
  """Removes unfinished files of killed processes."""
  for path in scratch.glob(f'*{_SUFFIX}'):
    with contextlib.suppress(OSError), open(path, 'rb') as f:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink()
