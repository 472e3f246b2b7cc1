"""The GPUs of this machine, which are found without starting JAX.

Some settings of a command have to be made before JAX looks for devices, and
depend on which devices it will find.
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

# Written by NVIDIA's driver. Containers have this file even without GPUs.
_DRIVER = pathlib.Path('/proc/driver/nvidia/version')
_NODES = pathlib.Path('/dev')
_LIBRARY = 'libcuda.so.1'
_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')


def has_nvidia_gpu() -> bool:
  """Returns whether this process may use an NVIDIA GPU."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES', 'all')
  # An id that does not exist hides the GPUs after it.
  hidden = visible.split(',')[0] in ('', '-1', 'NoDevFiles')
  return not hidden and _DRIVER.exists() and any(
      map(_opens, _NODES.glob('nvidia[0-9]*'))
  )


def _opens(node):
  """Returns whether a GPU's device file opens; those of other jobs do not."""
  try:
    os.close(os.open(node, os.O_RDWR))
  except OSError:
    return False
  return True


def expected() -> bool:
  """Returns whether JAX will compute on accelerators instead of CPUs.

  Follows JAX's environment variables if they are set. Otherwise JAX has to use
  the machine's GPU if there is one, see `check_used`.
  """
  for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
    if told := os.environ.get(name):
      return told.split(',')[0].strip().lower() != 'cpu'
  return has_nvidia_gpu()


def check_used(devices: Sequence['jax.Device']) -> None:
  """Checks that JAX does not ignore a GPU of this machine.

  Args:
    devices: the devices that JAX has found.

  Raises:
    ConfigError: there is an NVIDIA GPU, but JAX uses the CPU although no
      setting says so.
  """
  import jax  # Slow to import, and not needed by --help.

  told = jax.config.jax_platforms or jax.config.values['jax_platform_name']
  if told or devices[0].platform != 'cpu' or not has_nvidia_gpu():
    return
  if any(map(importlib.util.find_spec, _PLUGINS)):
    reason = (
        'JAX for GPUs is installed, so the driver may be too old '
        '(requirements-gpu.txt says which it needs); with JAX_PLATFORMS=cuda, '
        'JAX reports the error'
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
  """Makes JAX allocate memory of the GPU only as it needs it.

  By default, as in training, JAX allocates three quarters of it at its start.
  Call this before JAX starts. It does not change a variable that is set.
  """
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def driver_version() -> str | None:
  """Returns the version line of NVIDIA's driver; None without a driver."""
  try:
    return _DRIVER.read_text().splitlines()[0]
  except (OSError, IndexError):
    return None


def nvidia_ids() -> list[str]:
  """Returns the UUIDs of the GPUs that this process sees, in hexadecimal.

  They are in CUDA's order. A part of a GPU (MIG) has its own UUID. The list is
  empty if CUDA's library is missing or reports an error.
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
