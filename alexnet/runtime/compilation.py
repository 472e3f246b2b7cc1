"""Compiles functions for the devices that they run on."""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from absl import logging
from jax.sharding import Mesh

from alexnet.runtime import heap
from alexnet.runtime.gpu import device_memory
from alexnet.runtime.sharding import REPLICATED


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A compiled function, and its last arguments, which stay the same."""

  function: Any
  constants: tuple[Any, ...]

  def __call__(self, *arguments):
    return self.function(*arguments, *self.constants)

  def lower(self, *arguments):
    """As of a function from `jax.jit`."""
    return self.function.lower(*arguments, *self.constants)


class _Program:
  """A function of `jax.jit` for CPUs, in memory that stays where it is.

  That is as large as the first call wants it; see `heap.make_room`.
  """

  def __init__(self, function):
    self._function = function
    self._has_room = not heap.is_kept()

  def __call__(self, *arguments):
    if not self._has_room:
      # The call takes what is compiled here.
      memory = self.lower(*arguments).compile().memory_analysis()
      heap.make_room(
          memory.temp_size_in_bytes, len(jax.local_devices(backend='cpu'))
      )
      self._has_room = True
    heap.keep_room()
    return self._function(*arguments)

  def lower(self, *arguments):
    """As of a function from `jax.jit`."""
    return self._function.lower(*arguments)


def as_argument(images: Callable[..., Any], mesh: Mesh) -> Any:
  """Makes a function, or the method of a pytree, an argument of a step."""
  if not isinstance(images, types.MethodType):
    return jax.tree_util.Partial(images)
  everywhere = jax.sharding.NamedSharding(mesh, REPLICATED)
  owner = jax.device_put(images.__self__, everywhere)
  return jax.tree_util.Partial(images.__func__, owner)


def jit_for(
    device: jax.Device,
    dtype: jnp.dtype,
    function: Callable[..., Any],
    *,
    deterministic: bool = False,
    **arguments: Any,
) -> Any:
  """`jax.jit(function, **arguments)` with what such a device needs.

  Args:
    device: where it runs.
    dtype: that its network computes in.
    function: what to compile.
    deterministic: see `options`.
    **arguments: of `jax.jit`.
  """
  compiled = jax.jit(
      function,
      compiler_options=options(device, dtype, deterministic=deterministic),
      **arguments,
  )
  if device.platform == 'cpu':
    return _Program(compiled)
  return device_memory.Checked(compiled, device)


def options(
    device: jax.Device, dtype: jnp.dtype, *, deterministic: bool = False
) -> dict[str, Any]:
  """The options that programs for a device are compiled with.

  Args:
    device: where they run.
    dtype: that their network computes in.
    deterministic: on GPUs, only kernels that give the same bits each time; on
      others all do.

  Returns:
    {XLA's option: value}; what the installed XLA has no such option for is left
    out, with a warning.
  """
  if device.platform == 'cpu':
    # By default XLA gives convolutions and matrix products to YNNPACK. Its
    # kernel gradients run at a third of the speed of XLA's own, its products in
    # float32 at 0.8 of it; those in bfloat16 at three times.
    library = dtype == jnp.bfloat16 and 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    return {
        'xla_cpu_experimental_ynn_fusion_type': library or '',
        # Half of AVX-512's by default; where there is no such thing, no more
        # than there is.
        'xla_cpu_prefer_vector_width': 512,
        # Otherwise operations begin as early as they can, whose results then
        # wait for the others': up to a fifth more memory, and no faster.
        'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    }
  if device.platform != 'gpu':
    return {}
  wanted = {
      # The gradients of the fully connected layers, 96 % of all, are there
      # first. Their sums over the replicas begin then, beside the gradients of
      # the convolutions, if several may be under way, and if they do not wait
      # to be joined with those of later layers.
      'xla_gpu_experimental_parallel_collective_overlap_limit': 4,
      'xla_gpu_all_reduce_combine_threshold_bytes': 4 * 2**20,
  }
  if jax.process_count() > 1:
    # Processes would wait for the part of each other, for a day: one that has
    # the program in its cache tunes nothing.
    wanted['xla_gpu_shard_autotuning'] = False
  if deterministic:
    wanted['xla_gpu_deterministic_ops'] = True
  return known_options(device, wanted)


def known_options(
    device: jax.Device, wanted: dict[str, Any]
) -> dict[str, Any]:
  """Those that the XLA of a device knows; warns of the others, once each."""
  if device.process_index != jax.process_index():
    device = jax.local_devices()[0]
  return {
      name: value
      for name, value in wanted.items()
      if _is_known(device, name, value)
  }


@functools.cache
def _is_known(device, name, value):
  # XLA has no list of its options: it refuses to compile with another.
  sharding = jax.sharding.SingleDeviceSharding(device)
  smallest = jax.jit(lambda: jnp.zeros(()), out_shardings=sharding).lower()
  # One process may ask alone, and must not tune with the others.
  alone = {'xla_gpu_autotune_level': 0}
  try:
    smallest.compile(compiler_options={**alone, name: value})
  except jax.errors.JaxRuntimeError as error:
    if 'No such compile option' not in str(error):
      raise
    logging.warning(
        '%s is left out: the XLA of jaxlib %s has no such option',
        name, jaxlib.__version__,
    )
    return False
  return True
