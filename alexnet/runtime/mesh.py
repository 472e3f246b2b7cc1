"""The (data, tower) mesh of a run's devices.

Only this file names the axes of the mesh. `data` replicates the network and
splits the batch; `tower` splits the network into its two towers.
"""

import collections
import contextlib
import math

import jax
import ml_collections
from jax.experimental import mesh_utils
from jax.extend import backend
from jax.sharding import AxisType, Mesh

from alexnet.config.errors import ConfigError
from alexnet.runtime import multihost
from alexnet.runtime.gpu import accelerators

DATA = 'data'
TOWER = 'tower'


def devices() -> list[jax.Device]:
  """Returns JAX's devices; starts JAX's platform if it has not started.

  Raises:
    ConfigError: JAX cannot start the platform that its variables name, or does
      not see a GPU of this machine.
  """
  try:
    found = jax.devices()
  except (AssertionError, RuntimeError) as error:
    told = {
        option: value
        for option in ('jax_platforms', 'jax_platform_name')
        if (value := jax.config.values[option])
    }
    # Each of several processes waits here for the others; distributed.py
    # explains errors of that.
    if not told or multihost.place()[1] > 1:
      raise
    raise ConfigError(
        f'{_variables(told)}, which JAX cannot start here '
        f'({str(error) or "no such device"}): {_without(told)}'
    ) from error
  accelerators.check_used(found)
  return found


def _variables(options):
  return ' and '.join(f'{name.upper()}={of}' for name, of in options.items())


def _without(told):
  """Returns advice, with the devices that JAX finds without these options."""
  for option in told:
    jax.config.update(option, None)
  try:
    found = jax.devices()
    advice = (
        f'this machine has {len(found)} {found[0].platform} device(s). Unset '
        'that, or set '
        + _variables(dict.fromkeys(told, found[0].platform))
    )
    if found[0].platform == 'cpu':
      advice += '; an NVIDIA GPU also needs requirements-gpu.txt'
    return advice
  except (AssertionError, RuntimeError) as error:
    return f'without that variable JAX says: {error}'
  finally:
    backend.clear_backends()
    for option, value in told.items():
      jax.config.update(option, value)


def create_mesh(config: ml_collections.ConfigDict) -> Mesh:
  """Creates the (data, tower) mesh that `config.mesh` describes.

  On a machine without accelerators, JAX is set to as many CPU devices as the
  mesh needs, which only works before anything else has used JAX. Each of
  several processes has the same number of rows of the mesh, with all towers.

  Args:
    config: the whole config; reads mesh, model, batch_size and accumulation.

  Returns:
    A mesh of shape (data, tower) with explicit axes.

  Raises:
    ConfigError: there are too few devices, or the mesh does not fit the model,
      the batch or the number of processes.
  """
  _, parts = multihost.place()
  rows = -(-(config.mesh.data or 1) // parts)
  _request_cpu_devices(rows * (config.mesh.tower or 1))
  found = devices()
  own = len(found) // parts
  accelerators = 0 if found[0].platform == 'cpu' else own
  if config.mesh.tower is not None:
    tower = config.mesh.tower
  else:
    tower = 2 if accelerators >= 2 and _splittable(config.model) else 1
  data = config.mesh.data
  if data is None:
    data = parts * _most_replicas(accelerators // tower, config, parts)
  _check_model(config.model, data, tower)
  if parts > 1:
    _check_processes(found, data, tower, parts)
  if data * tower > len(found):
    raise ConfigError(
        f'mesh (data={data}, tower={tower}) needs {data * tower} devices, '
        f'found {len(found)} ({found[0].platform}): set '
        f'--config.mesh.data and --config.mesh.tower to fit'
    )
  _check_batch('batch_size', config.batch_size, data, config.accumulation)
  _check_batch('evaluation_batch_size', config.evaluation_batch_size, data, 1)
  axis_types = (AxisType.Explicit,) * 2
  if parts > 1:
    # JAX arranges the devices within each process; no row spans processes.
    grid = mesh_utils.create_hybrid_device_mesh(
        (data // parts, tower),
        (parts, 1),
        list(_first_of_each_process(found, data // parts * tower)),
        process_is_granule=True,
    )
    return Mesh(grid, (DATA, TOWER), axis_types=axis_types)
  return jax.make_mesh(
      (data, tower),
      (DATA, TOWER),
      axis_types=axis_types,
      devices=found[: data * tower],
  )


def _first_of_each_process(devices, count):
  taken = collections.Counter()
  for device in devices:
    taken[device.process_index] += 1
    if taken[device.process_index] <= count:
      yield device


def _check_processes(devices, data, tower, parts):
  """Raises ConfigError unless each process has equally many whole replicas.

  The towers of a replica communicate in each step, so they stay in a process.
  """
  mesh = f'mesh (data={data}, tower={tower})'
  if data % parts:
    raise ConfigError(
        f'{mesh} cannot be shared by {parts} processes: each has whole '
        'replicas, with both towers, and as many as the others. Set '
        f'--config.mesh.data to a multiple of {parts}'
    )
  wanted = data // parts * tower
  of_process = collections.Counter(device.process_index for device in devices)
  process, least = min(of_process.items(), key=lambda item: item[1])
  if least < wanted:
    raise ConfigError(
        f'{mesh} needs {wanted} devices in each of {parts} processes, found '
        f'{least} ({devices[0].platform}) in process {process}: start one '
        'process on each host, with all devices of the host '
        '(docs/many_hosts.md), or set --config.mesh.data and '
        '--config.mesh.tower to fit'
    )


def _request_cpu_devices(count):
  if count <= jax.config.jax_num_cpu_devices:
    return
  # JAX refuses this if it is in use already. The caller then checks whether its
  # devices suffice.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', count)


def _most_replicas(limit, config, parts):
  """Returns the most replicas per process, up to a limit, that fit the batches.

  They divide the evaluation batch and each part of an accumulated batch.
  """
  part = config.batch_size // max(1, config.accumulation)
  common = math.gcd(part, config.evaluation_batch_size)
  return max(
      (n for n in range(1, limit + 1) if common % (n * parts) == 0), default=1
  )


def _splittable(model):
  return model.towers == 2 and not _normalizes_across(model)


def _normalizes_across(model):
  # Models from definition files have no such field.
  return 'lrn' in model and model.lrn.across_towers


def _check_model(model, data, tower):
  mesh = f'mesh (data={data}, tower={tower})'
  if tower > model.towers:
    raise ConfigError(
        f'{mesh} has more tower devices than the model has towers '
        f'({model.towers}): set --config.mesh.tower=1, and '
        f'--config.mesh.data={data * tower} to use all devices'
    )
  if tower > 1 and _normalizes_across(model):
    raise ConfigError(
        f'{mesh} splits the towers, but model.lrn.across_towers makes '
        'normalization cross them: set --config.mesh.tower=1'
    )


def _check_batch(field, size, data, accumulation):
  if size % (data * accumulation):
    parts = f'{data} data-parallel devices (mesh.data)'
    if accumulation > 1:
      parts += f' times {accumulation} parts (accumulation)'
    raise ConfigError(
        f'{field} {size} cannot be divided equally by {parts}: set '
        f'--config.{field} to a multiple of {data * accumulation}'
    )
