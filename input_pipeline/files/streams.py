"""Standard streams and progress display.

A log that cannot be written any more (`| head`, a closed terminal, a full disk)
should not cost steps or results, so writing to it never ends the program.
"""

import contextlib
import errno
import io
import os
import select
import sys
import weakref
from collections.abc import Iterable
from typing import Any, ClassVar, TextIO

import tqdm

# A pipe without a reader, or a closed terminal.
_GONE = (errno.EPIPE, errno.EIO)
# Seconds between progress lines in a file; shorter work shows none.
_SECONDS = 30
_LINE = (
    '{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}{postfix}, '
    '{elapsed} so far, {remaining} left'
)


class _Lasting(io.FileIO):
  """A descriptor that drops output that cannot be written.

  Attributes:
    failure: the error if output with a reader was dropped, else None.
  """

  failure: OSError | None = None

  def write(self, data) -> int:
    """Writes or drops all of it."""
    try:
      # None: the descriptor was set to non-blocking by another process.
      while (count := super().write(data)) is None:
        select.select([], [self], [])
      return count
    except OSError as error:
      if error.errno not in _GONE:
        self.failure = error
      return len(data)


def make_lasting() -> None:
  """Makes the standard streams drop output that cannot be written.

  Closed streams lead nowhere, and text that cannot be encoded is escaped.
  Streams that are not files of the system, as in a notebook, are unchanged.
  """
  # Otherwise the next file opened takes the number of a closed stream, and
  # libraries write their messages to it.
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
  """Returns why standard output is incomplete, or None."""
  with contextlib.suppress(AttributeError):
    sys.stdout.flush()
    return sys.stdout.buffer.raw.failure
  return None


class _Lines(tqdm.tqdm):
  """Progress as lines, for output that is not a terminal."""

  # Separate, because `tqdm.write` would repeat the line of each instance.
  _instances: ClassVar = weakref.WeakSet()
  monitor_interval = 0  # The monitor's thread would write more lines.

  def display(self, msg: str | None = None, pos: int | None = None) -> None:
    """Writes a line; nothing has to be cleared."""
    if msg is None:
      self.fp.write(f'{self}\n')
      self.fp.flush()

  def close(self) -> None:
    """Writes the final progress if a line was written before."""
    shown = self.last_print_t >= self.start_t + self.delay
    if not self.disable and shown and self.n > self.last_print_n:
      self.display()
    super().close()


def progress(
    items: Iterable[Any] | None,
    description: str,
    total: int,
    *,
    initial: int = 0,
    unit: str = 'img',
    leave: bool = True,
    file: TextIO | None = None,
) -> tqdm.tqdm:
  """Shows progress: a bar on a terminal, lines in a file.

  Args:
    items: items to iterate over; None to call `update(count)` instead.
    description: description of the work.
    total: number of items.
    initial: number of items done before.
    unit: unit of an item.
    leave: whether the bar stays on a terminal.
    file: file to write to; None for standard error.

  Returns:
    An iterator over the items, which is also a context manager to close it.
  """
  file = file or sys.stderr
  options = dict(
      total=total, initial=initial, unit=unit, file=file, dynamic_ncols=True
  )
  if file.isatty():
    return tqdm.tqdm(items, description, leave=leave, **options)
  return _Lines(
      items, description, leave=False, mininterval=_SECONDS, delay=_SECONDS,
      miniters=1, bar_format=_LINE, **options,
  )
