"""Signals that ask a run to stop."""

import contextlib
import signal
from collections.abc import Iterator


class Stop:
  """Whether a signal has asked for an end.

  Attributes:
    number: of that signal; None before.
  """

  def __init__(self):
    self.number: int | None = None

  def __bool__(self) -> bool:
    return self.number is not None

  @property
  def name(self) -> str:
    """Of the signal, such as 'SIGTERM'."""
    return signal.Signals(self.number).name

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """SIGTERM and SIGINT are noted inside instead of ending the process.

    A second SIGINT ends it: somebody does not want to wait for a step that
    takes long. A second SIGTERM does not: clusters send it to a process and to
    its group.
    """
    before = {
        number: signal.signal(number, self._on_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _on_signal(self, number, frame):
    del frame
    self.number = number
    if number == signal.SIGINT:
      signal.signal(number, signal.SIG_DFL)
