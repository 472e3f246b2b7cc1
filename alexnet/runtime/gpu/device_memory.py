"""Checks that programs fit into a GPU's memory, and advice if they do not."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet.config.errors import DeviceMemoryError
from alexnet.runtime.mesh import DATA

# Words of XLA's allocators, CUDA, cuDNN, cuBLAS and NCCL.
_EXHAUSTED = re.compile(
    r'RESOURCE_EXHAUSTED|out of memory|OUT_OF_MEMORY|ALLOC_FAILED',
    re.IGNORECASE,
)
# 'trying to allocate 4770354232 bytes', 'Out of memory allocating 12 bytes',
# 'Failed to allocate request for 176.00MiB (184549376B) on device ordinal 0'.
_WANTED = re.compile(
    r'allocat(?:e|ing) (?:request for [\d.]+[KMGT]?i?B \()?(\d+) ?(?:bytes|B)'
)


class TooLarge(DeviceMemoryError):
  """A compiled program is larger than the memory of its device.

  Attributes:
    sizes: text with the sizes of the program and of the memory.
  """

  def __init__(self, wanted: int, device: jax.Device):
    self.sizes = f'needs {_gib(wanted)}, more than {_of_device(device)}'
    super().__init__(f'a compiled program {self.sizes}')


class Checked:
  """A function of `jax.jit` whose size is compared with its device's memory.

  The first call does this before it computes anything. XLA's own error would
  only name one of the program's buffers.
  """

  def __init__(self, function: Any, device: jax.Device):
    """Compiles nothing yet."""
    self._function, self._device = function, device
    self._fits = False

  def __call__(self, *arguments):
    if not self._fits:
      # The call below reuses this compiled program.
      self._check(self.lower(*arguments).compile().memory_analysis())
      self._fits = True
    return self._function(*arguments)

  def lower(self, *arguments):
    """Lowers the function, as a function of `jax.jit` does."""
    return self._function.lower(*arguments)

  def _check(self, memory):
    had = _had(self._device)
    if memory is None or had is None:  # Some devices do not report it.
      return
    wanted = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    if wanted > had:
      raise TooLarge(wanted, self._device)


@dataclasses.dataclass(frozen=True)
class Work:
  """Work of a device, described for error messages.

  Attributes:
    name: name of the work, such as 'a training step'.
    images: number of images on each device; None if unknown.
    advice: settings with which the work needs less memory.
    device: one of the devices that do the work.
  """

  name: str
  images: int | None
  advice: str
  device: jax.Device

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    """Explains errors for lack of memory in the body.

    Raises:
      DeviceMemoryError: the body raised `TooLarge`, or JAX's error for lack of
        memory; the message has the advice.
    """
    try:
      yield
    except TooLarge as error:
      raise DeviceMemoryError(
          f'{self._begin()} {error.sizes}: {self._advice()}'
      ) from error
    except jax.errors.JaxRuntimeError as error:
      if not _EXHAUSTED.search(str(error)):
        raise
      found = _WANTED.search(str(error))
      wanted = f'another {_gib(int(found[1]))}' if found else 'more'
      raise DeviceMemoryError(
          f'{self._begin()} needs {wanted}, which is not free of '
          f'{_of_device(self.device)}: {self._advice()}. JAX says: '
          f'{str(error).splitlines()[0]}'
      ) from error

  def _begin(self):
    if self.images is None:
      return self.name
    images = 'image' if self.images == 1 else 'images'
    return f'{self.name} with {self.images:,} {images} on each device'

  def _advice(self):
    if self.device.platform != 'gpu':
      return self.advice
    return (
        f'{self.advice}. nvidia-smi shows whether another process has memory '
        'there; by default JAX takes three quarters of it, with '
        'XLA_CLIENT_MEM_FRACTION=0.9 more'
    )


def training(config: ml_collections.ConfigDict, mesh: Mesh) -> Work:
  """Returns the work of a training step, from a run's whole config."""
  images = config.batch_size // mesh.shape[DATA]
  parts = next(
      (
          parts
          for parts in range(config.accumulation + 1, images + 1)
          if images % parts == 0
      ),
      None,
  )
  advice = (
      'in a new run, set --config.model.dtype=bfloat16 or a smaller '
      '--config.batch_size'
  )
  if parts:
    advice = (
        f'set --config.accumulation={parts}, for the same update in smaller '
        f'parts; {advice}'
    )
  return Work('a training step', images, advice, mesh.devices.flat[0])


def evaluation(config: ml_collections.ConfigDict, mesh: Mesh) -> Work:
  """Returns the work of an evaluation's batch, from a run's whole config."""
  images = config.evaluation_batch_size // mesh.shape[DATA]
  return Work(
      'an evaluation',
      images,
      'set a smaller --config.evaluation_batch_size',
      mesh.devices.flat[0],
  )


def measuring(config: ml_collections.ConfigDict, mesh: Mesh) -> Work:
  """Returns the work of measuring layers at an evaluation, from a config."""
  return Work(
      'measuring layers',
      config.layer_statistics_images // mesh.shape[DATA],
      'set a smaller --config.layer_statistics_images',
      mesh.devices.flat[0],
  )


def _of_device(device):
  had = _had(device)
  size = f'the {_gib(had)} that JAX has' if had else 'the memory'
  return f'{size} of {device.device_kind}'


def _had(device):
  """Returns the bytes that JAX may use of a device; None if unknown."""
  try:
    return (device.memory_stats() or {}).get('bytes_limit')
  except jax.errors.JaxRuntimeError:  # Devices without an allocator.
    return None


def _gib(size):
  return f'{size / 2**30:.1f} GiB'
