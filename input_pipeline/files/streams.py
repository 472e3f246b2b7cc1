"""Standard streams that do not end a program when their reader has gone.

A log that nobody reads any more (`| head`, a terminal that was closed, a full
disk) is no reason to lose steps or results.
"""

import contextlib
import errno
import io
import os
import select
import sys

# A pipe without a reader, a terminal that was closed.
_GONE = (errno.EPIPE, errno.EIO)


class _Lasting(io.FileIO):
  """A descriptor; what cannot be written there is dropped.

  Attributes:
    failure: why something that there is a reader for was dropped, if so.
  """

  failure: OSError | None = None

  def write(self, data) -> int:
    """Takes all of it."""
    try:
      # None: somebody who shares the terminal does not want to wait.
      while (count := super().write(data)) is None:
        select.select([], [self], [])
      return count
    except OSError as error:
      if error.errno not in _GONE:
        self.failure = error
      return len(data)


def make_lasting() -> None:
  """Replaces the standard streams; those that were closed lead nowhere.

  A name that cannot be encoded is escaped. What is no file of the system, as
  in a notebook, stays as it is.
  """
  # Otherwise the next file that is opened has the number of a closed stream,
  # and libraries write their messages there.
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)
  if sys.stdin is None:
    sys.stdin = open(os.devnull)
  sys.stdout = _lasting(sys.stdout, 1)
  sys.stderr = _lasting(sys.stderr, 2)


def _lasting(stream, number):
  if stream is not None:
    try:
      if stream.fileno() != number:
        return stream
    except (AttributeError, OSError, ValueError):
      return stream
    stream.flush()
  return io.TextIOWrapper(
      io.BufferedWriter(_Lasting(number, 'wb', closefd=False)),
      encoding=getattr(stream, 'encoding', 'utf-8'),
      errors='backslashreplace',
      line_buffering=getattr(stream, 'line_buffering', True),
      write_through=getattr(stream, 'write_through', False),
  )


def failure() -> OSError | None:
  """Why standard output is not whole, though somebody may want to read it."""
  with contextlib.suppress(AttributeError):
    sys.stdout.flush()
    return sys.stdout.buffer.raw.failure
  return None
