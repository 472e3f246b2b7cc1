"""Communication between the processes of one run.

All processes take the same steps and must make the same decisions: a process
that evaluates or saves alone would wait for the others forever. So they agree
here on what only one of them knows, such as a signal, or on what each may see
at a different time, such as the files on a disk. A single process does not
communicate.

distributed.py starts the processes.
"""

import collections
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Texts are padded to a multiple of this many bytes, because each length is a
# program to compile.
_BLOCK = 1024


def place() -> tuple[int, int]:
  """Returns (index of this process, number of processes).

  Unlike JAX's own functions, this does not open devices, which would wait for
  the other processes and fix the number of devices.
  """
  from jax._src import distributed  # There is no public interface.

  state = distributed.global_state
  return state.process_id, state.num_processes


def is_first() -> bool:
  """Returns whether this is process 0, which writes files and the console."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when all processes have called it.

  Args:
    name: name of the place in the program; JAX checks that all give the same.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_before_others(name: str) -> Iterator[None]:
  """Runs the body in process 0, then in the other processes."""
  if not is_first():
    wait_for_all(name)
  yield
  if is_first():
    wait_for_all(name)


def of_first(value: Any) -> Any:
  """Returns the value of process 0 in all processes.

  Args:
    value: value that JSON can hold; ignored except in process 0.
  """
  if jax.process_count() == 1:
    return value
  text = json.dumps(value if is_first() else None).encode()
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  block = np.zeros(-(-size // _BLOCK) * _BLOCK, np.uint8)
  if is_first():
    block[:size] = np.frombuffer(text, np.uint8)
  block = np.asarray(multihost_utils.broadcast_one_to_all(block), np.uint8)
  return json.loads(block[:size].tobytes())


class Agreement:
  """The largest number of all processes, which all get at the same step.

  Questions are asked beside the steps of a run, and answered when the results
  of the steps are read, so that no process waits for them. A single process
  answers its questions itself.
  """

  def __init__(self, mesh: Mesh):
    """Compiles nothing yet.

    Args:
      mesh: mesh of the run; all of its devices take part.
    """
    self._asked = collections.deque()
    self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    everywhere = NamedSharding(mesh, PartitionSpec())
    self._largest = jax.jit(
        lambda x: jax.sharding.reshard(x, everywhere).max()
    )
    self._devices = mesh.size, len(mesh.local_devices)

  def ask(self, number: int) -> None:
    """Starts to compute the largest number of all processes.

    Args:
      number: number of this process, at least 0.
    """
    if jax.process_count() > 1:
      size, here = self._devices
      mine = np.full(here, number, np.int32)
      number = self._largest(
          jax.make_array_from_process_local_data(self._sharding, mine, (size,))
      )
    self._asked.append(number)

  def answer(self) -> int:
    """Waits for the answer to the oldest question and returns it."""
    return int(self._asked.popleft())

  def clear(self) -> None:
    """Discards the questions that have not been answered."""
    self._asked.clear()
