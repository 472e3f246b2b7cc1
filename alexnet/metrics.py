"""The clock of a run, and where its numbers go: file, terminal, TensorBoard."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np
from absl import logging

from alexnet import board
from alexnet.errors import CheckpointError
from input_pipeline import atomic, untrusted

FILE = 'metrics.jsonl'

# Of a metrics.jsonl that is read.
_MOST_BYTES = 2**27
_MOST_RECORDS = 1_000_000
# Values that a histogram is made of, at most.
_HISTOGRAM_VALUES = 2**20


class Clock:
  """Time spent in training steps, without compilation and evaluation.

  Attributes:
    seconds: total over all sessions of the run; part of a checkpoint.
  """

  def __init__(self, seconds: float = 0.0):
    """Starts from the time of earlier sessions."""
    self.seconds = seconds
    self._since: float | None = None
    # (steps, seconds) of this session, and of them until the last lap.
    self._session = (0, 0.0)
    self._last_lap = (0, 0.0)

  def tick(self) -> None:
    """A step has ended. The first one, which compiles, starts the clock."""
    now = time.perf_counter()
    if self._since is not None:
      elapsed = now - self._since
      self.seconds += elapsed
      steps, seconds = self._session
      self._session = (steps + 1, seconds + elapsed)
    self._since = now

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time inside does not count; to be used between two steps."""
    yield
    if self._since is not None:
      self._since = time.perf_counter()

  def lap(self) -> float | None:
    """Mean seconds of the steps since the last lap; None if there is none."""
    steps, seconds = (
        now - last for now, last in zip(self._session, self._last_lap)
    )
    self._last_lap = self._session
    return seconds / steps if steps else None

  def remaining(self, steps: int) -> float | None:
    """Estimated seconds for more steps; None before one has been timed."""
    timed_steps, seconds = self._session
    return steps * seconds / timed_steps if timed_steps else None


def _is_of_training(record):
  return record['kind'] == 'train'


class Writer:
  """Appends records to workdir/metrics.jsonl and TensorBoard's files.

  A record is one line of JSON: {'kind', 'step', ...numbers}. While the disk has
  no room, lines wait in memory, and TensorBoard goes without.
  """

  def __init__(
      self,
      workdir: pathlib.Path,
      first_step: int,
      stays: Callable[[dict[str, Any]], bool] = _is_of_training,
      report: Callable[[str], None] = logging.warning,
  ):
    """Opens the files, and drops the records that will be written again.

    They are left by a session that was killed after its last checkpoint.

    Args:
      workdir: of the run.
      first_step: where the run starts or continues; later records go.
      stays: whether a record of this very step is to be kept.
      report: is told once that the disk has no room, and once that it has.

    Raises:
      OSError: the files cannot be written.
    """
    self._path = workdir / FILE
    self._logdir = workdir / 'tensorboard'
    self._report = report
    self._waiting: list[str] = []
    self._open(first_step, stays)

  def _open(self, first_step, stays):
    kept = [
        r
        for r in read_records(self._path)
        if r['step'] < first_step
        or (r['step'] == first_step and stays(r))
    ]
    text = ''.join(json.dumps(r) + '\n' for r in kept)
    atomic.replace_text(self._path, text)
    # Without a buffer, so that it is known what is in the file.
    self._file = open(self._path, 'ab', buffering=0)
    self._size = self._file.tell()
    self._board = board.create_writer(self._logdir, first_step + 1)

  def rewind(
      self, step: int, stays: Callable[[dict[str, Any]], bool]
  ) -> None:
    """Goes back to a step: what was written of later ones goes, as in init."""
    self.flush()
    self._file.close()
    self._board.close()
    self._open(step, stays)

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Writes one record at once, so that nothing is lost with the process."""
    record = {'kind': kind, 'step': step, **values}
    self._waiting.append(json.dumps(record) + '\n')
    try:
      self.flush()
    except OSError as error:
      if len(self._waiting) == 1:
        self._report(
            f'{self._path} cannot be written ({error.strerror}): lines wait '
            'until it can'
        )
    for name, value in values.items():
      if isinstance(value, (int, float)):
        self._board.add_scalar(f'{kind}/{name}', value, step)

  def flush(self) -> None:
    """Writes the lines that wait.

    Raises:
      OSError: they have to wait on.
    """
    waited = len(self._waiting) > 1
    while self._waiting:
      line = self._waiting[0].encode()
      try:
        if self._file.write(line) != len(line):
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      except OSError:
        # Half a line would spoil the next one.
        with contextlib.suppress(OSError):
          self._file.truncate(self._size)
        raise
      self._size += len(line)
      del self._waiting[0]
    if waited:
      self._report(f'{self._path} has all its lines again')

  def scalar(self, tag: str, step: int, value: float) -> None:
    """Adds a number to TensorBoard alone."""
    self._board.add_scalar(tag, value, step)

  def image(self, tag: str, step: int, pixels: np.ndarray) -> None:
    """Adds a picture, [height, width, 3] uint8, to TensorBoard."""
    self._board.add_image(tag, pixels, step, dataformats='HWC')

  def histogram(self, tag: str, step: int, values: np.ndarray) -> None:
    """Adds the histogram of an array's values to TensorBoard.

    Of a large array, of some of them at equal distances: a million say the same
    as all, and take less time than an evaluation.
    """
    values = np.ravel(values)
    values = values[:: -(-values.size // _HISTOGRAM_VALUES)]
    self._board.add_histogram(tag, values, step)

  def close(self) -> None:
    """Closes the files; lines that still wait are lost, which is reported."""
    try:
      self.flush()
    except OSError as error:
      self._report(
          f'{self._path} cannot be written ({error.strerror}): '
          f'{len(self._waiting)} lines are lost'
      )
    self._file.close()
    self._board.close()


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl, {'kind', 'step', ...} a line.

  A line that a killed run left half, or that is no such record, is left out.

  Raises:
    CheckpointError: it has more than any run writes.
  """
  if not path.exists():
    return []
  records = []
  try:
    with untrusted.open_file(path, _MOST_BYTES) as f:
      for line in f:
        if record := _record(line):
          records.append(record)
        if len(records) > _MOST_RECORDS:
          raise untrusted.UnreadableError(
              f'it has more than {_MOST_RECORDS:,} records'
          )
  except untrusted.UnreadableError as error:
    raise CheckpointError(
        f'cannot read {path} ({error}): move it away'
    ) from error
  return records


class NoWriter(Writer):
  """Of a process whose numbers another one writes."""

  def __init__(self):
    pass

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Does nothing, as all methods of this class."""

  def rewind(
      self, step: int, stays: Callable[[dict[str, Any]], bool]
  ) -> None: ...

  def flush(self) -> None: ...

  def scalar(self, tag: str, step: int, value: float) -> None: ...

  def image(self, tag: str, step: int, pixels: np.ndarray) -> None: ...

  def histogram(self, tag: str, step: int, values: np.ndarray) -> None: ...

  def close(self) -> None: ...


def _record(line):
  try:
    # A loss may be infinite, unlike anything in other files.
    record = untrusted.parse_json(line, finite=False)
    untrusted.take(record, 'kind', str)
    return record if untrusted.take(record, 'step', int) >= 0 else None
  except ValueError:
    return None


class Console:
  """Lines for a person; a progress line replaces the last on a terminal."""

  def __init__(self, stream: TextIO | None = None):
    self._stream = stream or sys.stdout
    self._in_place = self._stream.isatty()
    self._open_line = False

  def print(self, text: str = '') -> None:
    """Prints a line that stays."""
    if self._open_line:
      self._stream.write('\n')
      self._open_line = False
    self._stream.write(text + '\n')
    self._stream.flush()

  def progress(self, text: str, *, transient: bool = False) -> None:
    """Prints a line that the next one replaces on a terminal.

    A transient line is of no use later, and is left out of a file.
    """
    if not self._in_place:
      if not transient:
        self.print(text)
      return
    # Return to the start, and clear what a longer line has left. A line that
    # wraps could not be replaced.
    columns = shutil.get_terminal_size().columns
    self._stream.write('\r' + text[: columns - 1] + '\x1b[K')
    self._stream.flush()
    self._open_line = True


class Silence(Console):
  """Of a process for which another one speaks."""

  def print(self, text: str = '') -> None:
    """Does nothing."""

  def progress(self, text: str, *, transient: bool = False) -> None:
    """Does nothing."""


def format_duration(seconds: float | None) -> str:
  """Seconds as '1h02m' or '3m05s'; '--' if not known."""
  if seconds is None:
    return '--'
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{rest:02d}s'
