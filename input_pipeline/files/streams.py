"""Standard streams and progress display.

A log that nobody reads any more (`| head`, a terminal that was closed, a full
disk) is no reason to lose steps or results: such streams do not end a program.
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

# A pipe without a reader, a terminal that was closed.
_GONE = (errno.EPIPE, errno.EIO)
# Between two lines of progress in a file; what is done sooner has none.
_SECONDS = 30
_LINE = (
    '{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}{postfix}, '
    '{elapsed} so far, {remaining} left'
)


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
  """Reason why standard output is incomplete, or None."""
  with contextlib.suppress(AttributeError):
    sys.stdout.flush()
    return sys.stdout.buffer.raw.failure
  return None


class _Lines(tqdm.tqdm):
  """Progress as lines, for output that is not a terminal."""

  # Its own: `tqdm.write` would repeat the line of each.
  _instances: ClassVar = weakref.WeakSet()
  monitor_interval = 0  # Its thread would write lines in between.

  def display(self, msg: str | None = None, pos: int | None = None) -> None:
    """Writes a line; there is none to clear."""
    if msg is None:
      self.fp.write(f'{self}\n')
      self.fp.flush()

  def close(self) -> None:
    """Writes how far it has come, if it has written before."""
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
    items: to go through; None: `update(count)` says what is done.
    description: of what is done.
    total: number of items.
    initial: of them done before.
    unit: of an item.
    leave: whether the bar stays at a terminal.
    file: where to; None: standard error.

  Returns:
    The items again, and what to close, or to use in a `with` statement.
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
