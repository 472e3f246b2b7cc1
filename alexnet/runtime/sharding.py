"""Where arrays live: the partition of state and batches over the mesh.

Every parameter is cut along its last axis over `tower`, which for a kernel is
its output features. Tower by tower, the two halves of a grouped kernel are the
plain kernels of Figure 2 of the paper.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet.config.errors import ConfigError
from alexnet.runtime.mesh import DATA, TOWER

REPLICATED = PartitionSpec()
BATCH = PartitionSpec(DATA)


def specs(tree: Any, mesh: Mesh) -> Any:
  """The partition of every leaf of a tree of parameters or optimizer state.

  Args:
    tree: arrays or shapes, global.
    mesh: the mesh they are to live on.

  Returns:
    A tree of PartitionSpec: the last axis over the towers. A leaf whose last
    axis the towers do not divide (a head of 101 classes) is replicated. Over a
    single replica all that is not a scalar counts as split: the sum of its
    gradients over the replicas, which would be a copy, is not made then.
  """
  tower = mesh.shape[TOWER]
  alone = (DATA,) if mesh.shape[DATA] == 1 else ()

  def spec(leaf):
    if leaf.ndim == 0:
      return REPLICATED
    axes = alone if leaf.shape[-1] % tower else (*alone, TOWER)
    if not axes:
      return REPLICATED
    return PartitionSpec(*[None] * (leaf.ndim - 1), axes)

  return jax.tree.map(spec, tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
  """Like `specs`, as shardings for `jax.jit`, `jax.device_put` and Orbax."""
  of_spec = lambda spec: NamedSharding(mesh, spec)
  return jax.tree.map(of_spec, specs(tree, mesh))


def targets(shapes: Any, mesh: Mesh) -> Any:
  """Shapes, dtypes and shardings to restore arrays by.

  Args:
    shapes: tree of arrays or of `jax.ShapeDtypeStruct`.
    mesh: that they are to live on.
  """
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=sharding
      ),
      shapes,
      shardings(shapes, mesh),
  )


def initialize(
    create: Callable[[jax.Array], Any], mesh: Mesh, seed: int
) -> Any:
  """Runs `create(key)` so that its arrays are made where they will live.

  The values depend on the seed alone, not on the mesh.
  """
  key = jax.random.key(seed)
  shapes = jax.eval_shape(create, key)
  return jax.jit(create, out_shardings=shardings(shapes, mesh))(key)


def part_of_process(devices: np.ndarray, process: int) -> tuple[int, int]:
  """Which part of a batch a process reads: that of its devices' data rows.

  Args:
    devices: of the mesh, [data, tower].
    process: index of the process.

  Returns:
    (part, parts).

  Raises:
    ConfigError: the mesh cannot be shared by the processes equally.
  """
  rows = [{device.process_index for device in row} for row in devices]
  mine = [index for index, owners in enumerate(rows) if process in owners]
  if not mine:
    raise ConfigError(
        f'process {process} has no device in the mesh of {len(rows)} x '
        f'{devices.shape[1]}: set --config.mesh.data and --config.mesh.tower '
        'to use the devices of all processes'
    )
  if shared := [owners for owners in rows if len(owners) > 1]:
    raise ConfigError(
        f'the towers of a replica lie in the processes {sorted(shared[0])}: '
        'wanted each replica within one process'
    )
  counts = collections.Counter(owner for owners in rows for owner in owners)
  parts, part = len(rows) // len(mine), mine[0] // len(mine)
  block = list(range(part * len(mine), (part + 1) * len(mine)))
  if mine != block or len(set(counts.values())) > 1:
    raise ConfigError(
        f'process {process} has the rows {mine} of {len(rows)} of the mesh: '
        'wanted equal blocks, one after the other; start processes with equal '
        'numbers of devices'
    )
  return part, parts


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Moves this process's examples of a batch to its devices.

  Args:
    batch: arrays [examples of this process, ...].
    mesh: the mesh; the examples are split over its data axis.

  Returns:
    Global arrays [examples of all processes, ...].
  """
  sharding = NamedSharding(mesh, BATCH)
  _, parts = part_of_process(mesh.devices, jax.process_index())
  return {
      name: jax.make_array_from_process_local_data(
          sharding, array, (len(array) * parts, *array.shape[1:])
      )
      for name, array in batch.items()
  }


def put_ahead(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Moves batches to the devices before they are asked for, see `put_batch`.

  Args:
    batches: of this process.
    mesh: the mesh.
    ahead: batches on their way while one is in use.
  """
  moved = collections.deque()
  for batch in batches:
    moved.append(put_batch(batch, mesh))
    if len(moved) > ahead:
      yield moved.popleft()
  yield from moved
