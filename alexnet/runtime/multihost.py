"""What the processes of one run tell each other.

All of them go through the same steps, and have to take the same decisions: one
that evaluates or saves alone waits for the others for ever. So what only one of
them knows, such as a signal, or what lies on a disk that each may see at
another moment, they agree on here. A process that is alone asks nobody.

How they come together is in distributed.py.
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

# Texts of a few lengths, as each of them is a program to compile.
_BLOCK = 1024


def place() -> tuple[int, int]:
  """Which process this is, and of how many.

  JAX's own functions say it too, but open its devices, which waits for the
  others and settles the number of devices.
  """
  from jax._src import distributed  # There is no public way.

  state = distributed.global_state
  return state.process_id, state.num_processes


def is_first() -> bool:
  """Whether this is the process that writes files and the console."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when all processes are here.

  Args:
    name: of the place; JAX compares it.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_before_others(name: str) -> Iterator[None]:
  """The others begin what is inside when the first process has done it."""
  if not is_first():
    wait_for_all(name)
  yield
  if is_first():
    wait_for_all(name)


def of_first(value: Any) -> Any:
  """What the first process has for a value that JSON can hold.

  Args:
    value: of this process; that of the others than the first is not looked at.
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
  """A number that any process may have, and that all get at the same step.

  Questions are asked beside the steps of a run, and answered when their results
  are read, so that nobody waits for them. Alone a process answers them itself.
  """

  def __init__(self, mesh: Mesh):
    """Compiles nothing yet; all devices of the mesh take part."""
    self._asked = collections.deque()
    self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    everywhere = NamedSharding(mesh, PartitionSpec())
    self._largest = jax.jit(
        lambda x: jax.sharding.reshard(x, everywhere).max()
    )
    self._devices = mesh.size, len(mesh.local_devices)

  def ask(self, number: int) -> None:
    """Begins to look for the largest number of all processes, from 0."""
    if jax.process_count() > 1:
      size, here = self._devices
      mine = np.full(here, number, np.int32)
      number = self._largest(
          jax.make_array_from_process_local_data(self._sharding, mine, (size,))
      )
    self._asked.append(number)

  def answer(self) -> int:
    """The answer to the oldest question; waits for it."""
    return int(self._asked.popleft())

  def clear(self) -> None:
    """Forgets the questions that have not been answered."""
    self._asked.clear()
