"""Runs tasks on several threads; NumPy and decoders release the lock."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

Task = TypeVar('Task')
Result = TypeVar('Result')


def cores() -> int:
  """Number of cores that this process may use, which a cluster may limit."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_order(
    threads: futures.Executor,
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    ahead: int,
) -> Iterator[Result]:
  """Yields results in the order of the tasks, few of which are in memory.

  Args:
    threads: do the work.
    work: from a task to its result.
    tasks: may be endless.
    ahead: tasks that are begun while a result is in use.
  """
  waiting = collections.deque()
  for task in tasks:
    waiting.append(threads.submit(work, task))
    if len(waiting) > ahead:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()
