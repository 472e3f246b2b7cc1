"""Waiting for data so that a signal is heard, even if the data never comes."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Item = TypeVar('Item')

# Seconds between two questions whether to stop.
_TICK = 0.25
# Seconds that the end of a generator is waited for.
_PATIENCE = 1.0


class Stopped(Exception):
  """A signal asked for an end."""


def until(
    stop: Callable[[], bool], items: Generator[Item, None, None]
) -> Generator[Item, None, None]:
  """Yields the items of a generator, which runs in a thread of its own.

  Python runs the handler of a signal in the main thread, once that is back from
  where it waits; from here it comes back, from a library that reads it may not.

  Args:
    stop: asked while an item is waited for.
    items: used by nobody else; closed at the end, in its thread: if it does not
      come back, nobody waits for it.

  Yields:
    The items.

  Raises:
    Stopped: stop() was true. The thread is left to itself.
  """
  wanted, made = queue.SimpleQueue(), queue.SimpleQueue()

  def make():
    while wanted.get():
      try:
        made.put((next(items), None))
      except BaseException as error:
        made.put((None, error))
        return
    items.close()

  thread = threading.Thread(target=make, name='batches', daemon=True)
  thread.start()
  waiting = False
  try:
    while True:
      wanted.put(True)
      waiting = True
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
    wanted.put(False)
    if not waiting:
      thread.join(_PATIENCE)
