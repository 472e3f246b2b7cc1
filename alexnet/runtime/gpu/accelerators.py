"""The GPUs of this machine, as they are known without starting JAX.

Some of what a command sets up has to be set up before JAX looks for devices,
and depends on which it will find.
"""

import ctypes
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.config.errors import ConfigError

if TYPE_CHECKING:
  import jax

# Written by NVIDIA's driver. Containers see it as well, with or without GPUs.
_DRIVER = pathlib.Path('/proc/driver/nvidia/version')
_NODES = pathlib.Path('/dev')
_LIBRARY = 'libcuda.so.1'
_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')


def has_nvidia_gpu() -> bool:
  """Whether this process may use an NVIDIA GPU."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES', 'all')
  # The first that does not exist hides those after it.
  hidden = visible.split(',')[0] in ('', '-1', 'NoDevFiles')
  return not hidden and _DRIVER.exists() and any(
      map(_opens, _NODES.glob('nvidia[0-9]*'))
  )


def _opens(node):
  """Nodes of GPUs that a job has not asked for may be there, but not open."""
  try:
    os.close(os.open(node, os.O_RDWR))
  except OSError:
    return False
  return True


def expected() -> bool:
  """Whether JAX is going to compute on something else than CPUs.

  By its variables, otherwise by the machine: that JAX does not use a GPU that
  is there is an error, see `check_used`.
  """
  for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
    if told := os.environ.get(name):
      return told.split(',')[0].strip().lower() != 'cpu'
  return has_nvidia_gpu()


def check_used(devices: Sequence['jax.Device']) -> None:
  """Compares what JAX has found with what the machine has.

  Args:
    devices: of JAX.

  Raises:
    ConfigError: there is a GPU, JAX runs on the CPU, and nobody has said that
      it should.
  """
  import jax  # A second that --help can save.

  told = jax.config.jax_platforms or jax.config.values['jax_platform_name']
  if told or devices[0].platform != 'cpu' or not has_nvidia_gpu():
    return
  if any(map(importlib.util.find_spec, _PLUGINS)):
    reason = (
        'JAX for GPUs is installed, so the driver may be too old '
        '(requirements-gpu.txt says which it needs); JAX_PLATFORMS=cuda has '
        'JAX tell what is wrong'
    )
  else:
    reason = (
        'JAX for GPUs is not installed: pip install -r requirements-gpu.txt'
    )
  raise ConfigError(
      'this machine has an NVIDIA GPU that JAX does not see. '
      f'{reason}. To compute on the CPU, set JAX_PLATFORMS=cpu'
  )


def take_memory_as_needed() -> None:
  """Lets other processes have the memory of the GPU that this one leaves.

  By default JAX takes three quarters at its start, as training does. Call it
  before JAX starts; a variable that the user has set counts.
  """
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def driver_version() -> str | None:
  """What NVIDIA's driver says of itself; None without one."""
  try:
    return _DRIVER.read_text().splitlines()[0]
  except (OSError, IndexError):
    return None


def nvidia_ids() -> list[str]:
  """UUIDs of the GPUs that this process sees, in CUDA's order, in hexadecimal.

  Of a part of a GPU (MIG) its own. Empty where CUDA's library does not answer.
  """
  try:
    cuda = ctypes.CDLL(_LIBRARY)
    uuid_of = cuda.cuDeviceGetUuid_v2
  except (AttributeError, OSError):
    return []
  count = ctypes.c_int()
  if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    return []
  found = []
  for ordinal in range(count.value):
    device, uuid = ctypes.c_int(), ctypes.create_string_buffer(16)
    if cuda.cuDeviceGet(ctypes.byref(device), ordinal):
      return []
    if uuid_of(uuid, device):
      return []
    found.append(uuid.raw.hex())
  return found
