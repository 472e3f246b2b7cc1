"""Measures the time that a run spends in training steps."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
  """Time spent in training steps, without compilation and evaluation.

  Attributes:
    seconds: total over all sessions of the run; saved in checkpoints.
  """

  def __init__(self, seconds: float = 0.0):
    """Creates a clock with the time of earlier sessions."""
    self.seconds = seconds
    self._since: float | None = None
    # (steps, seconds) of this session, and at its last lap.
    self._session = (0, 0.0)
    self._last_lap = (0, 0.0)

  def tick(self) -> None:
    """Marks the end of a step; the first, which compiles, starts the clock."""
    now = time.perf_counter()
    if self._since is not None:
      elapsed = now - self._since
      self.seconds += elapsed
      steps, seconds = self._session
      self._session = (steps + 1, seconds + elapsed)
    self._since = now

  @property
  def is_running(self) -> bool:
    """True once the first step has ended."""
    return self._since is not None

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock inside the context; use it between two steps."""
    yield
    if self._since is not None:
      self._since = time.perf_counter()

  def lap(self) -> float | None:
    """Returns the mean seconds per step since the last lap; None if no step."""
    steps, seconds = (
        now - last for now, last in zip(self._session, self._last_lap)
    )
    self._last_lap = self._session
    return seconds / steps if steps else None

  def remaining(self, steps: int) -> float | None:
    """Estimates the seconds for more steps; None before one was timed."""
    timed_steps, seconds = self._session
    return steps * seconds / timed_steps if timed_steps else None
