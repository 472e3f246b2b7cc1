"""Warns about files that take too long to read."""

import threading
import time
from collections.abc import Callable

from input_pipeline.errors import DataError, printable

# Number of files named in a message.
_SHOWN = 4


class Watch:
  """Tracks what is being read, and since when.

  A daemon thread checks at intervals, and ends when nothing is being read.
  """

  def __init__(self, limit: float | None, report: Callable[[str], None]):
    """Does not start the thread yet.

    Args:
      limit: seconds after which a read is reported, and again after twice that
        time, and so on; None for never.
      report: called with the message, in the watching thread.

    Raises:
      DataError: the limit is not positive.
    """
    if limit is not None and not limit > 0:
      raise DataError(
          f'dataset.stalled_after is {limit}: expected a number of seconds > '
          '0, or no value'
      )
    self._limit = limit
    self._report = report
    self._lock = threading.Lock()
    self._thread: threading.Thread | None = None
    self._readings: dict[int, Reading] = {}  # By thread.

  def reading(self, describe: Callable[[], str]) -> 'Reading':
    """Creates a context that a thread enters for each read.

    Args:
      describe: returns a description of what is read.
    """
    return Reading(self, describe)

  def begin(self, reading: 'Reading') -> None:
    """Called by `Reading` when it begins."""
    if self._limit is None:
      return
    reading.due = reading.since + self._limit
    self._readings[threading.get_ident()] = reading
    if self._thread is None:
      self._start()

  def end(self, reading: 'Reading') -> None:
    """Called by `Reading` when it ends."""
    self._readings.pop(threading.get_ident(), None)
    if reading.reported:
      seconds = time.monotonic() - reading.since
      self._report(f'{reading.name()} has been read after {seconds:.0f} s')

  def _start(self):
    with self._lock:
      if self._thread is None:
        self._thread = threading.Thread(
            target=self._look, name='stalls', daemon=True
        )
        self._thread.start()

  def _look(self):
    while True:
      time.sleep(self._limit / 4)
      with self._lock:
        if not self._readings:
          self._thread = None  # The next reading starts another.
          return
      self.look(time.monotonic())

  def look(self, now: float) -> None:
    """Reports reads that take too long at a time of `time.monotonic`."""
    late = [r for r in list(self._readings.values()) if now >= r.due]
    for reading in late:
      reading.due += now - reading.since
      reading.reported = True
    if late:
      names = ', '.join(reading.name() for reading in late[:_SHOWN])
      if late[_SHOWN:]:
        names += f' and {len(late) - _SHOWN} more'
      longest = now - min(reading.since for reading in late)
      self._report(
          f'waiting for {names} for {longest:.0f} s now: check the disk or the '
          'network'
      )


class Reading:
  """One read by a thread, from `Watch.reading`."""

  __slots__ = ('_describe', '_watch', 'due', 'reported', 'since')

  def __init__(self, watch: Watch, describe: Callable[[], str]):
    """Creates a read that has not begun."""
    self._watch = watch
    self._describe = describe
    self.since = self.due = 0.0
    self.reported = False

  def __enter__(self):
    self.since = time.monotonic()
    self._watch.begin(self)
    return self

  def __exit__(self, *_):
    self._watch.end(self)

  def name(self) -> str:
    """Describes what is read, on one line."""
    # The description may need a disk that does not answer, or a deleted file.
    try:
      return printable(self._describe())
    except Exception as error:
      return f'an image ({error})'
