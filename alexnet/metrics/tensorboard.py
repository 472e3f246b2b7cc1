"""Writes TensorBoard's files; failures do not stop a run.

tensorboardX writes in a thread, which ends at the first error. Ten events later
its queue is full, and the run would hang. The files here drop what a full disk
does not accept instead of raising an error.
"""

import contextlib
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import tensorboardX

# URL scheme under which tensorboardX finds these files.
_SCHEME = 'droppable'
_FLUSH_SECONDS = 30


def create_writer(
    directory: pathlib.Path, first_step: int
) -> 'tensorboardX.SummaryWriter':
  """Opens a new file of events in a folder.

  Args:
    directory: the folder, created if necessary.
    first_step: discards events of earlier files from this step on.
  """
  import tensorboardX  # Slow to import, and not needed for evaluation.
  from tensorboardX import record_writer

  record_writer.register_writer_factory(_SCHEME, _Factory())
  return tensorboardX.SummaryWriter(
      f'{_SCHEME}:{directory.resolve()}',
      purge_step=first_step,
      flush_secs=_FLUSH_SECONDS,
  )


class _Factory:

  def directory_check(self, path):
    pathlib.Path(path.partition(':')[2]).mkdir(parents=True, exist_ok=True)

  def open(self, path):
    return _File(path.partition(':')[2])


class _File:
  """A file with complete events only, even on a full disk."""

  def __init__(self, path):
    self._path = path
    self._file = None
    self._size = 0
    self._events = bytearray()

  def write(self, part):
    self._events += part

  def flush(self):
    """Called between two events."""
    try:
      if self._file is None:
        self._file = open(self._path, 'wb', buffering=0)
      written = self._file.write(self._events)
    except OSError:
      written = 0
    if written == len(self._events):
      self._size += written
    elif self._file is not None:
      with contextlib.suppress(OSError):
        self._file.seek(self._size)
        self._file.truncate()
    self._events.clear()

  def close(self):
    self.flush()
    if self._file is not None:
      self._file.close()
