"""Writes the metrics of a run: metrics.jsonl and TensorBoard files."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from alexnet.config.errors import CheckpointError
from alexnet.metrics import tensorboard
from input_pipeline.files import atomic, untrusted

FILE = 'metrics.jsonl'

# Limits for reading a metrics.jsonl.
_MOST_BYTES = 2**27
_MOST_RECORDS = 1_000_000
# Most values that go into a histogram.
_HISTOGRAM_VALUES = 2**20


def _is_of_training(record):
  return record['kind'] == 'train'


class Writer:
  """Appends records to workdir/metrics.jsonl and TensorBoard files.

  A record is one line of JSON: {'kind', 'step', ...numbers}. On a full disk,
  lines wait in memory, and TensorBoard's events are dropped.
  """

  def __init__(
      self,
      workdir: pathlib.Path,
      first_step: int,
      stays: Callable[[dict[str, Any]], bool] = _is_of_training,
      report: Callable[[str], None] = logging.warning,
  ):
    """Opens the files and drops records that will be written again.

    A session that is killed leaves records after its last checkpoint.

    Args:
      workdir: folder of the run.
      first_step: step at which the run starts or continues; later records are
        dropped.
      stays: whether to keep a record of this very step.
      report: called with a message when the disk is full, and when there is
        room again.

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
    # Unbuffered, so that the contents of the file are known.
    self._file = open(self._path, 'ab', buffering=0)
    self._size = self._file.tell()
    self._board = tensorboard.create_writer(self._logdir, first_step + 1)

  def rewind(
      self, step: int, stays: Callable[[dict[str, Any]], bool]
  ) -> None:
    """Drops the records of later steps, as the constructor does."""
    self.flush()
    self._file.close()
    self._board.close()
    self._open(step, stays)

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Writes one record immediately."""
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
    """Writes pending lines.

    Raises:
      OSError: they still cannot be written.
    """
    waited = len(self._waiting) > 1
    while self._waiting:
      line = self._waiting[0].encode()
      try:
        if self._file.write(line) != len(line):
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      except OSError:
        # A partial line would spoil the next one.
        with contextlib.suppress(OSError):
          self._file.truncate(self._size)
        raise
      self._size += len(line)
      del self._waiting[0]
    if waited:
      self._report(f'{self._path} has all its lines again')

  def scalar(self, tag: str, step: int, value: float) -> None:
    """Adds a number to TensorBoard only."""
    self._board.add_scalar(tag, value, step)

  def image(self, tag: str, step: int, pixels: np.ndarray) -> None:
    """Adds an image, [height, width, 3] uint8, to TensorBoard."""
    self._board.add_image(tag, pixels, step, dataformats='HWC')

  def histogram(self, tag: str, step: int, values: np.ndarray) -> None:
    """Adds the histogram of an array's values to TensorBoard.

    Large arrays are sampled at equal distances: a million values give the same
    picture in less time.
    """
    values = np.ravel(values)
    values = values[:: -(-values.size // _HISTOGRAM_VALUES)]
    self._board.add_histogram(tag, values, step)

  def close(self) -> None:
    """Closes the files; pending lines are lost, and reported."""
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
  """Reads a metrics.jsonl, with one record {'kind', 'step', ...} per line.

  Skips partial lines of a killed run, and lines that are not records.

  Raises:
    CheckpointError: the file is larger than any run's.
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
  """Writes nothing, for processes other than the first."""

  def __init__(self):
    pass

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Does nothing, like all methods of this class."""

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
    # A loss may be infinite, unlike numbers in other files.
    record = untrusted.parse_json(line, finite=False)
    untrusted.take(record, 'kind', str)
    return record if untrusted.take(record, 'step', int) >= 0 else None
  except ValueError:
    return None
