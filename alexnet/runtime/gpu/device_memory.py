"""The memory of a GPU: whether a program fits, and what to do if not."""

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

# XLA's allocators, CUDA, cuDNN, cuBLAS and NCCL each have words of their own.
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
    sizes: what it needs and what there is, as text.
  """

  def __init__(self, wanted: int, device: jax.Device):
    self.sizes = f'needs {_gib(wanted)}, more than {_of_device(device)}'
    super().__init__(f'a compiled program {self.sizes}')


class Checked:
  """A function of `jax.jit` that is compared with its device's memory.

  Before its first call: then nothing has been computed, and XLA would name no
  more than one of its buffers.
  """

  def __init__(self, function: Any, device: jax.Device):
    """Compiles nothing yet."""
    self._function, self._device = function, device
    self._fits = False

  def __call__(self, *arguments):
    if not self._fits:
      # The call takes what is compiled here.
      self._check(self.lower(*arguments).compile().memory_analysis())
      self._fits = True
    return self._function(*arguments)

  def lower(self, *arguments):
    """As of a function from `jax.jit`."""
    return self._function.lower(*arguments)

  def _check(self, memory):
    had = _had(self._device)
    if memory is None or had is None:  # Not every device tells.
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
  """What a device is at, for a message.

  Attributes:
    name: such as 'a training step'.
    images: that a device has of a batch; None if that is not known.
    advice: what to set for less memory.
    device: one of those that do it.
  """

  name: str
  images: int | None
  advice: str
  device: jax.Device

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    """Errors for want of memory say inside what to do.

    Raises:
      DeviceMemoryError: instead of JAX's error, or `TooLarge`.
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
  """A training step of a run, by its whole config."""
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
  """A batch of an evaluation of a run, by its whole config."""
  images = config.evaluation_batch_size // mesh.shape[DATA]
  return Work(
      'an evaluation',
      images,
      'set a smaller --config.evaluation_batch_size',
      mesh.devices.flat[0],
  )


def measuring(config: ml_collections.ConfigDict, mesh: Mesh) -> Work:
  """The measurement of layers at an evaluation, by a run's whole config."""
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
  """Bytes that JAX may have of a device; None if it does not tell."""
  try:
    return (device.memory_stats() or {}).get('bytes_limit')
  except jax.errors.JaxRuntimeError:  # Of a device without an allocator.
    return None


def _gib(size):
  return f'{size / 2**30:.1f} GiB'
