"""The clock of a run, and where its numbers go: file, terminal, TensorBoard."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from alexnet.errors import CheckpointError
from input_pipeline import untrusted

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


class Writer:
  """Appends records to workdir/metrics.jsonl and TensorBoard's files.

  A record is one line of JSON: {'kind', 'step', ...numbers}.
  """

  def __init__(
      self,
      workdir: pathlib.Path,
      first_step: int,
      kinds_of_first_step: tuple[str, ...] = ('train',),
  ):
    """Opens the files, and drops the records that will be written again.

    They are left by a session that was killed after its last checkpoint.

    Args:
      workdir: of the run.
      first_step: where the run starts or continues; later records go.
      kinds_of_first_step: kinds of records of this very step to keep.
    """
    import tensorboardX  # Slow to import, and evaluation does not need it.

    path = workdir / 'metrics.jsonl'
    kept = [
        r
        for r in read_records(path)
        if r['step'] < first_step
        or (r['step'] == first_step and r['kind'] in kinds_of_first_step)
    ]
    temporary = path.with_suffix('.tmp')
    temporary.write_text(''.join(json.dumps(r) + '\n' for r in kept))
    os.replace(temporary, path)
    self._file = open(path, 'a', encoding='utf-8')
    self._board = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=first_step + 1
    )

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Writes one record at once, so that nothing is lost with the process."""
    record = {'kind': kind, 'step': step, **values}
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()
    for name, value in values.items():
      if isinstance(value, (int, float)):
        self._board.add_scalar(f'{kind}/{name}', value, step)

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
    """Closes the files."""
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


def format_duration(seconds: float | None) -> str:
  """Seconds as '1h02m' or '3m05s'; '--' if not known."""
  if seconds is None:
    return '--'
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{rest:02d}s'
