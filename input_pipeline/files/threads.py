"""Runs tasks on threads; NumPy and image decoders release Python's lock."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

Task = TypeVar('Task')
Result = TypeVar('Result')


def cores() -> int:
  """Returns the number of cores available to this process."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_order(
    threads: futures.Executor,
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    ahead: int,
) -> Iterator[Result]:
  """Yields results in the order of the tasks, with few tasks in memory.

  Args:
    threads: the executor.
    work: function from a task to its result.
    tasks: the tasks; may be endless.
    ahead: number of tasks started while a result is in use.
  """
  waiting = collections.deque()
  for task in tasks:
    waiting.append(threads.submit(work, task))
    if len(waiting) > ahead:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()
