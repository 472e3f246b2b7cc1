"""Precision of matrix products and convolutions of float32 numbers.

On GPUs since Ampere, JAX by default rounds the operands to TensorFloat-32: 10
bits of mantissa instead of 23, which is several times as fast. CPUs do not have
this format.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

HIGHEST = 'highest'
# The default of JAX, with which JAX's own setting applies.
TENSORFLOAT32 = 'tensorfloat32'

# Compute capability of Ampere, the first with TensorFloat-32 and bfloat16.
_AMPERE = (8, 0)


def traced(
    function: Callable[..., Any], model: Any, device: jax.Device | None
) -> Callable[..., Any]:
  """Returns a function that is traced with the precision of its network.

  Args:
    function: the whole function to compile, gradients included; what is traced
      outside of it has JAX's default precision.
    model: network of the function; see `models` for `precision`.
    device: device to compile for; None if unknown. On CPUs, the program is the
      same for each precision.
  """
  on_cpu = device is not None and device.platform == 'cpu'
  asked = getattr(model, 'precision', TENSORFLOAT32)
  if on_cpu or asked != HIGHEST or model.dtype != jnp.float32:
    return function

  @functools.wraps(function)
  def exact(*arguments):
    with jax.default_matmul_precision(HIGHEST):
      return function(*arguments)

  return exact


def in_force(model: ml_collections.ConfigDict, device: jax.Device) -> str:
  """Returns the precision of products, for messages and environment.json.

  Args:
    model: the `model` part of a config.
    device: device that computes the products.
  """
  if model.dtype != 'float32':
    return model.dtype
  if device.platform == 'cpu' or model.get('precision') == HIGHEST:
    return 'float32'
  if (setting := jax.config.jax_default_matmul_precision) is not None:
    return f'float32, as JAX_DEFAULT_MATMUL_PRECISION={setting} has it'
  capability = _compute_capability(device)
  if capability is None:
    return 'float32, as JAX has it by default on this device'
  return TENSORFLOAT32 if capability >= _AMPERE else 'float32'


def warning(
    model: ml_collections.ConfigDict, device: jax.Device
) -> str | None:
  """Returns a message if a device has no bfloat16 but the network uses it."""
  capability = _compute_capability(device)
  if model.dtype != 'bfloat16' or not capability or capability >= _AMPERE:
    return None
  return (
      f'{device.device_kind} has no arithmetic for bfloat16, which GPUs have '
      'since Ampere: it saves memory, but is slower than '
      '--config.model.dtype=float32'
  )


def _compute_capability(device):
  """Returns (major, minor) of an NVIDIA GPU; None for other devices."""
  try:
    return tuple(map(int, device.compute_capability.split('.')))
  except (AttributeError, ValueError):  # 'gfx90a', of an AMD GPU.
    return None
