"""Partition of state and batches over the mesh.

Every parameter is split along its last axis over `tower`; a kernel's last axis
has its output features. Each tower's half of a grouped kernel is a plain kernel
of the paper's Figure 2.
"""

import collections
import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet.config.errors import ConfigError
from alexnet.runtime.mesh import DATA, TOWER

REPLICATED = PartitionSpec()
BATCH = PartitionSpec(DATA)

# Dtypes of the arrays that `Batch` transfers together.
_SMALL = (np.bool_, np.int32, np.float32)


def specs(tree: Any, mesh: Mesh) -> Any:
  """Returns the partition of a tree of parameters or optimizer state.

  Args:
    tree: tree of global arrays or shapes.
    mesh: mesh that the arrays will be on.

  Returns:
    A tree of PartitionSpec, which split the last axis over the towers. A leaf
    whose last axis the towers do not divide (a head of 101 classes) is
    replicated. On a mesh with a single replica, all leaves but scalars also
    count as split over `data`, because summing their gradients over the
    replicas would only copy them.
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
  """Returns `specs` as shardings for `jax.jit`, `jax.device_put` and Orbax."""
  of_spec = lambda spec: NamedSharding(mesh, spec)
  return jax.tree.map(of_spec, specs(tree, mesh))


def targets(shapes: Any, mesh: Mesh) -> Any:
  """Returns the shapes, dtypes and shardings of arrays to restore.

  Args:
    shapes: tree of arrays or of `jax.ShapeDtypeStruct`.
    mesh: mesh that the restored arrays will be on.
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
  """Runs `create(key)` and returns its arrays, sharded by `shardings`.

  The values depend on the seed only, not on the mesh.
  """
  key = jax.random.key(seed)
  shapes = jax.eval_shape(create, key)
  return jax.jit(create, out_shardings=shardings(shapes, mesh))(key)


def part_of_process(devices: np.ndarray, process: int) -> tuple[int, int]:
  """Returns the part of a batch that a process reads.

  It is the part of the rows of the mesh in which the process has devices.

  Args:
    devices: devices of the mesh, [data, tower].
    process: index of the process.

  Returns:
    (index of the part, number of equal parts).

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
        'expected each replica within one process'
    )
  counts = collections.Counter(owner for owners in rows for owner in owners)
  parts, part = len(rows) // len(mine), mine[0] // len(mine)
  block = list(range(part * len(mine), (part + 1) * len(mine)))
  if mine != block or len(set(counts.values())) > 1:
    raise ConfigError(
        f'process {process} has the rows {mine} of {len(rows)} of the mesh: '
        'expected equal blocks, one after the other; start processes with '
        'equal numbers of devices'
    )
  return part, parts


@jax.tree_util.register_pytree_node_class
class Batch(Mapping[str, jax.Array]):
  """Arrays of a batch by name, the small ones of which are transferred as one.

  A transfer takes time on the host for each array and device, even for small
  arrays. So each example's 32-bit numbers and booleans are stored side by side
  in an int32 array [examples, columns]. A compiled function takes a batch apart
  at no cost.
  """

  def __init__(self, arrays: dict[str, Any], columns: Any, places: Any):
    """Stores the parts of a batch; use `pack` to create one.

    Args:
      arrays: arrays that are transferred separately, by name.
      columns: [examples, columns] int32, the small arrays side by side; None if
        there are none.
      places: (name, first column, shape of an example, dtype) of each small
        array.
    """
    self._arrays, self._columns, self._places = arrays, columns, places

  @classmethod
  def pack(cls, batch: Mapping[str, np.ndarray]) -> 'Batch':
    """Packs arrays on the host, [examples, ...] each."""
    arrays, small, places, first = dict(batch), [], [], 0
    for name in sorted(batch):
      array = batch[name]
      if array.ndim > 2 or array.dtype not in _SMALL:
        continue
      columns = array.reshape(len(array), -1)
      is_truth = columns.dtype == bool
      columns = columns.astype(np.int32) if is_truth else columns.view(np.int32)
      places.append((name, first, array.shape[1:], array.dtype.name))
      small.append(columns)
      first += columns.shape[1]
    if len(small) < 2:
      return cls(arrays, None, ())
    for name, *_ in places:
      del arrays[name]
    return cls(arrays, np.concatenate(small, axis=1), tuple(places))

  def __getitem__(self, name):
    for other, first, shape, dtype in self._places:
      if other == name:
        if not shape:
          column = self._columns[..., first]
        else:
          column = self._columns[..., first : first + shape[0]]
        if dtype == 'bool':
          return column != 0
        return lax.bitcast_convert_type(column, dtype)
    return self._arrays[name]

  def __iter__(self):
    yield from self._arrays
    yield from (name for name, *_ in self._places)

  def __len__(self):
    return len(self._arrays) + len(self._places)

  def tree_flatten(self):
    """Flattens the batch for JAX."""
    return (self._arrays, self._columns), self._places

  @classmethod
  def tree_unflatten(cls, places, children):
    """Restores a batch for JAX."""
    return cls(*children, places)


def everywhere(array: np.ndarray, mesh: Mesh) -> jax.Array:
  """Replicates an array, which every process has, on all devices of a mesh."""
  return jax.make_array_from_process_local_data(
      NamedSharding(mesh, REPLICATED), array, array.shape
  )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """Moves this process's examples of a batch to its devices.

  Args:
    batch: arrays [examples of this process, ...].
    mesh: the mesh; the examples are split over its data axis.

  Returns:
    Global arrays [examples of all processes, ...].
  """
  sharding = NamedSharding(mesh, BATCH)
  _, parts = part_of_process(mesh.devices, jax.process_index())
  return jax.tree.map(
      lambda array: jax.make_array_from_process_local_data(
          sharding, array, (len(array) * parts, *array.shape[1:])
      ),
      Batch.pack(batch),
  )


def put_ahead(
    batches: Generator[Mapping[str, np.ndarray], None, None],
    mesh: Mesh,
    ahead: int = 2,
    stop: Callable[[], bool] | None = None,
) -> Generator[Batch, None, None]:
  """Moves batches to the devices before they are needed, see `put_batch`.

  A separate thread moves them, so that the training loop does not wait.

  Args:
    batches: batches of this process.
    mesh: the mesh.
    ahead: number of batches on the devices while one is in use.
    stop: function that is called repeatedly while waiting for a batch, and
      returns whether to stop; None never stops.

  Returns:
    A generator of the batches, see `preemption.until`.
  """

  # Imports packages that a step itself does not need.
  from alexnet.runtime import preemption

  def move():
    with contextlib.closing(batches):
      for batch in batches:
        yield put_batch(batch, mesh)

  return preemption.until(stop or (lambda: False), move(), ahead)
