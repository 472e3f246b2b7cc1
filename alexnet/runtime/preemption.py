"""Signals that ask a run to stop, and waiting that they can interrupt."""

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

# Always handled; other signals of `cli.ENDING` only if nothing handles them.
_ALWAYS = (signal.SIGTERM, signal.SIGINT)
# Signals that a user sends from the keyboard.
_BY_HAND = ('SIGINT', 'SIGQUIT')

# Seconds between two checks whether to stop.
_TICK = 0.25
# Seconds to wait for the end of a generator.
_PATIENCE = 1.0


class Stopped(Exception):
  """Raised if a signal has asked the run to stop."""


class Stop:
  """A signal's request to stop a run; true once all processes know of it.

  Any process of a run may get the signal, and all have to stop at the same
  step: they ask each other beside their steps (`multihost.Agreement`). A single
  process knows of it at once.

  Attributes:
    number: number of the signal; None before all processes know of it.
  """

  def __init__(self, mesh: Mesh):
    """Prepares the questions to all processes.

    Args:
      mesh: mesh of the run.
    """
    self.number: int | None = None
    self._heard = 0  # By this process.
    self._agreement = multihost.Agreement(mesh)

  def __bool__(self) -> bool:
    return self.number is not None

  def alone(self) -> bool:
    """Returns whether to stop at once; False in one of several processes."""
    return bool(self) and jax.process_count() == 1

  def ask(self) -> None:
    """Starts to ask all processes, without waiting for the answer."""
    self._agreement.ask(self._heard)

  def hear(self) -> None:
    """Waits for the answer to the oldest question."""
    self.number = self._agreement.answer() or self.number

  def agree(self) -> bool:
    """Asks all processes and waits; returns whether to stop."""
    self.ask()
    self.hear()
    return bool(self)

  def forget_questions(self) -> None:
    """Discards the questions that have not been answered."""
    self._agreement.clear()

  @property
  def name(self) -> str:
    """Name of the signal, such as 'SIGTERM'."""
    return signal.Signals(self.number).name

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Notes signals while the body runs, so that they do not end the process.

    Signals other than SIGTERM and SIGINT are only noted if they would end the
    process: not if they are ignored, as SIGHUP under nohup, or already have a
    handler. A second SIGINT or SIGQUIT ends the process, for users who do not
    want to wait for a long step. A second SIGTERM does not, because clusters
    send it to a process and to its group.

    Does nothing outside Python's main thread, where handlers cannot be set.
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
        # None is a handler of a C library, which Python cannot set.
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
  """Yields the items of a generator that runs in a separate thread.

  Python runs signal handlers in the main thread, and only when it is not inside
  a library. This function waits in short intervals, so that handlers can run; a
  library that reads data may not return.

  Args:
    stop: function that is called repeatedly while waiting for an item.
    items: the generator, which nothing else may use. It is closed in its thread
      at the end, unless it does not return.
    ahead: number of items to make while one is in use.

  Yields:
    The items.

  Raises:
    Stopped: stop() returned True. The thread is not waited for.
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
