"""Compiles functions for the devices that they run on."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
    **arguments: Any,
) -> Any:
  """`jax.jit(function, **arguments)` with what such a device needs.

  Args:
    device: where it runs.
    dtype: that its network computes in.
    function: what to compile.
    **arguments: of `jax.jit`.
  """
  if device.platform == 'cpu':
    # By default XLA gives convolutions and matrix products to YNNPACK. Its
    # kernel gradients run at a third of the speed of XLA's own, its products in
    # float32 at 0.8 of it; those in bfloat16 at three times.
    library = dtype == jnp.bfloat16 and 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    options = {
        'xla_cpu_experimental_ynn_fusion_type': library or '',
        # Half of AVX-512's by default; where there is no such thing, no more
        # than there is.
        'xla_cpu_prefer_vector_width': 512,
        # Otherwise operations begin as early as they can, whose results then
        # wait for the others': up to a fifth more memory, and no faster.
        'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    }
    return _Program(jax.jit(function, compiler_options=options, **arguments))
  return device_memory.Checked(jax.jit(function, **arguments), device)
