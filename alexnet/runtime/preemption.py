"""Signals that ask a run to stop, and waiting so that they are heard."""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import jax
from jax.sharding import Mesh

from alexnet.runtime import multihost
from input_pipeline import cli

Item = TypeVar('Item')

# The others of `cli.ENDING` are heard unless somebody has taken them.
_ALWAYS = (signal.SIGTERM, signal.SIGINT)
# From a keyboard: somebody waits there.
_BY_HAND = ('SIGINT', 'SIGQUIT')

# Seconds between two questions whether to stop.
_TICK = 0.25
# Seconds that the end of a generator is waited for.
_PATIENCE = 1.0


class Stopped(Exception):
  """A signal asked for an end."""


class Stop:
  """Whether a signal has asked for an end.

  Any process of a run may get it, and all of them have to end at the same step:
  they ask each other beside their steps (`multihost.Agreement`). A process that
  is alone knows at once.

  Attributes:
    number: of that signal; None before all know of it.
  """

  def __init__(self, mesh: Mesh):
    """Takes the mesh of the run."""
    self.number: int | None = None
    self._heard = 0  # By this process.
    self._agreement = multihost.Agreement(mesh)

  def __bool__(self) -> bool:
    return self.number is not None

  def alone(self) -> bool:
    """Whether to stop in the middle of something; never in one of several."""
    return bool(self) and jax.process_count() == 1

  def ask(self) -> None:
    """Begins to ask all processes; waits for nothing."""
    self._agreement.ask(self._heard)

  def hear(self) -> None:
    """Waits for the answer to the oldest question."""
    self.number = self._agreement.answer() or self.number

  def agree(self) -> bool:
    """Asks, waits for the answer and says whether to stop."""
    self.ask()
    self.hear()
    return bool(self)

  def forget_questions(self) -> None:
    """Nobody will want their answers."""
    self._agreement.clear()

  @property
  def name(self) -> str:
    """Of the signal, such as 'SIGTERM'."""
    return signal.Signals(self.number).name

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Signals are noted inside instead of ending the process.

    Those other than SIGTERM and SIGINT only if they would end it: not if they
    are ignored, as SIGHUP under nohup, or have a handler of somebody else's. A
    second SIGINT or SIGQUIT ends it: somebody does not want to wait for a step
    that takes long. A second SIGTERM does not: clusters send it to a process
    and to its group.

    Only Python's main thread can have handlers; in another one, nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
      for number in cli.ENDING:
        taken = signal.getsignal(number) is not signal.SIG_DFL
        if taken and number not in _ALWAYS:
          continue
        before[number] = signal.signal(number, self._on_signal)
    try:
      yield
    finally:
      for number, handler in before.items():
        # None: of a library, which cannot be set from here.
        if handler is not None:
          signal.signal(number, handler)

  def _on_signal(self, number, frame):
    del frame
    self._heard = number
    if jax.process_count() == 1:
      self.number = number
    if signal.Signals(number).name in _BY_HAND:
      signal.signal(number, signal.SIG_DFL)


def until(
    stop: Callable[[], bool],
    items: Generator[Item, None, None],
    ahead: int = 0,
) -> Generator[Item, None, None]:
  """Yields the items of a generator, which runs in a thread of its own.

  Python runs the handler of a signal in the main thread, once that is back from
  where it waits; from here it comes back, from a library that reads it may not.

  Args:
    stop: asked while an item is waited for.
    items: used by nobody else; closed at the end, in its thread: if it does not
      come back, nobody waits for it.
    ahead: items that are made while one is in use.

  Yields:
    The items.

  Raises:
    Stopped: stop() was true. The thread is left to itself.
  """
  wanted, made = queue.SimpleQueue(), queue.SimpleQueue()
  ended = threading.Event()

  def make():
    while wanted.get() and not ended.is_set():
      try:
        made.put((next(items), None))
      except BaseException as error:
        made.put((None, error))
        return
    items.close()

  thread = threading.Thread(target=make, name='batches', daemon=True)
  thread.start()
  coming, waiting = 0, False
  try:
    while True:
      for _ in range(ahead + 1 - coming):
        wanted.put(True)
      coming, waiting = ahead, True
      while waiting:
        try:
          item, error = made.get(timeout=_TICK)
          waiting = False
        except queue.Empty:
          if stop():
            raise Stopped from None
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    ended.set()
    wanted.put(False)
    if not waiting:
      thread.join(_PATIENCE)
