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

# The value of a user context is part of the key of JAX's tracing cache.
_platform = jax.make_user_context(None)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A compiled function with constant last arguments."""

  function: Any
  constants: tuple[Any, ...]

  def __call__(self, *arguments):
    return self.function(*arguments, *self.constants)

  def lower(self, *arguments):
    """Lowers the function, as a function of `jax.jit` does."""
    return self.function.lower(*arguments, *self.constants)


class _Program:
  """A function of `jax.jit` for CPUs, with a reserved place in memory.

  The first call reserves the place; see `heap.make_room`.
  """

  def __init__(self, function):
    self._function = function
    self._has_room = not heap.is_kept()

  def __call__(self, *arguments):
    if not self._has_room:
      # The call below reuses this compiled program.
      memory = self.lower(*arguments).compile().memory_analysis()
      heap.make_room(
          memory.temp_size_in_bytes, len(jax.local_devices(backend='cpu'))
      )
      self._has_room = True
    heap.keep_room()
    return self._function(*arguments)

  def lower(self, *arguments):
    """Lowers the function, as a function of `jax.jit` does."""
    return self._function.lower(*arguments)


def as_argument(images: Callable[..., Any], mesh: Mesh) -> Any:
  """Turns a function, or a method of a pytree, into an argument of a step.

  The arrays of the pytree are replicated on the mesh.
  """
  if not isinstance(images, types.MethodType):
    return jax.tree_util.Partial(images)
  everywhere = jax.sharding.NamedSharding(mesh, REPLICATED)
  owner = jax.device_put(images.__self__, everywhere)
  return jax.tree_util.Partial(images.__func__, owner)


def traced_for(
    function: Callable[..., Any], platform: str
) -> Callable[..., Any]:
  """Returns the function, to be traced for one platform alone.

  Args:
    function: function to trace and compile.
    platform: platform of the devices it runs on, see `jax.Device`.
  """

  @functools.wraps(function)
  def on_platform(*arguments):
    with _platform(platform):
      return function(*arguments)

  return on_platform


def traced_platform() -> str | None:
  """Returns the platform being traced for; None if it may be any."""
  return _platform.value


def jit_for(
    device: jax.Device,
    dtype: jnp.dtype,
    function: Callable[..., Any],
    *,
    deterministic: bool = False,
    **arguments: Any,
) -> Any:
  """Applies `jax.jit` with the compiler options of a device.

  On CPUs, the working memory is reserved as well; on other devices, the size of
  the program is checked before its first call.

  Args:
    device: device that the function runs on.
    dtype: dtype that the network computes in.
    function: function to compile.
    deterministic: see `options`.
    **arguments: arguments of `jax.jit`.

  Returns:
    A callable that also has `lower`.
  """
  compiled = jax.jit(
      traced_for(function, device.platform),
      compiler_options=options(device, dtype, deterministic=deterministic),
      **arguments,
  )
  if device.platform == 'cpu':
    return _Program(compiled)
  return device_memory.Checked(compiled, device)


def options(
    device: jax.Device, dtype: jnp.dtype, *, deterministic: bool = False
) -> dict[str, Any]:
  """Returns the compiler options of programs for a device.

  Args:
    device: device that the programs run on.
    dtype: dtype that the network computes in.
    deterministic: whether GPUs may only use kernels that give the same bits
      each time; on other devices, all kernels do.

  Returns:
    {name of an XLA option: value}. For GPUs, options that the installed XLA
    does not have are left out, with a warning.
  """
  if device.platform == 'cpu':
    # By default, XLA uses YNNPACK for convolutions and matrix products. Its
    # kernel gradients run at a third of the speed of XLA's own, its float32
    # products at 0.8 times and its bfloat16 products at three times that speed.
    library = dtype == jnp.bfloat16 and 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    return {
        'xla_cpu_experimental_ynn_fusion_type': library or '',
        # The default is half the width of AVX-512. CPUs without AVX-512 use
        # their own width.
        'xla_cpu_prefer_vector_width': 512,
        # By default, operations start as early as possible, and their results
        # wait in memory: up to a fifth more memory, and no faster.
        'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    }
  if device.platform != 'gpu':
    return {}
  wanted = {
      # The gradients of the fully connected layers, 96 % of all, are ready
      # first. They are summed over the replicas while those of the convolutions
      # are computed, if several sums may overlap, and if they are not combined
      # with the sums of later layers.
      'xla_gpu_experimental_parallel_collective_overlap_limit': 4,
      'xla_gpu_all_reduce_combine_threshold_bytes': 4 * 2**20,
  }
  if jax.process_count() > 1:
    # Each process would wait, up to a day, for the others' share of the tuning,
    # and a process that has the program in its cache tunes nothing.
    wanted['xla_gpu_shard_autotuning'] = False
  if deterministic:
    wanted['xla_gpu_deterministic_ops'] = True
  return known_options(device, wanted)


def known_options(
    device: jax.Device, wanted: dict[str, Any]
) -> dict[str, Any]:
  """Returns the options that a device's XLA has.

  Warns once about each option that it does not have.
  """
  if device.process_index != jax.process_index():
    device = jax.local_devices()[0]
  return {
      name: value
      for name, value in wanted.items()
      if _is_known(device, name, value)
  }


@functools.cache
def _is_known(device, name, value):
  # XLA cannot list its options, but refuses to compile with an unknown one.
  sharding = jax.sharding.SingleDeviceSharding(device)
  smallest = jax.jit(lambda: jnp.zeros(()), out_shardings=sharding).lower()
  # This process may compile alone, so it must not share tuning with others.
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
