"""Limits of the size of images, checked from their headers.

All follows from the memory that decoding one picture may take, which the flag
--image_memory of every command sets.
"""

from absl import flags
from PIL import Image

from input_pipeline.errors import DataError, ImageError

# MiB for one picture, in each of the threads that read.
DEFAULT_MEMORY = 1024
# Below and beyond these, a square would be made of next to nothing. The
# smallest images that are worth something are scikit-learn's digits.
SMALLEST_SIDE = 8
LARGEST_ASPECT = 100
# Bytes that decoding takes for each pixel, and for each byte of the file: the
# worst is 12 bytes of a progressive CMYK JPEG, and the file twice.
_PIXEL = 16
_FILE = 8
# Bytes that a process has before it decodes anything.
_PROCESS = 2**26
# A JPEG may have more pixels than are decoded, see `jpeg.reduction`: the time
# to read them is what limits these.
_REDUCED = 8

MEMORY = MAX_PIXELS = MAX_BYTES = MAX_JPEG_PIXELS = 0


def set_memory(mib: int) -> None:
  """Sets the limits of this process.

  Args:
    mib: memory that decoding one picture may take, in MiB.

  Raises:
    DataError: less than the default, by which other limits are chosen.
  """
  global MEMORY, MAX_PIXELS, MAX_BYTES, MAX_JPEG_PIXELS
  if mib < DEFAULT_MEMORY:
    raise DataError(
        f'--image_memory is {mib}: wanted at least {DEFAULT_MEMORY} (MiB)'
    )
  MEMORY = mib * 2**20
  MAX_PIXELS = MEMORY // _PIXEL
  MAX_BYTES = MEMORY // _FILE
  MAX_JPEG_PIXELS = _REDUCED * MAX_PIXELS
  if mib > DEFAULT_MEMORY:  # Pillow's own limit is 2.7 times the default.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)


set_memory(DEFAULT_MEMORY)


def define_flag() -> None:
  """Defines --image_memory, unless a command has done so."""
  if 'image_memory' not in flags.FLAGS:
    flags.DEFINE_integer(
        'image_memory', DEFAULT_MEMORY,
        'MiB that decoding one image may take, in each thread. More of it lets '
        'larger images and files in; see docs/images.md.',
    )


def check_bytes(count: int, name: str) -> None:
  """Raises ImageError for a file of so many bytes, before it is read."""
  if count > MAX_BYTES:
    raise ImageError(
        name,
        f'it has {count:,} bytes, wanted at most {MAX_BYTES:,}; '
        + _advice(count * _FILE),
    )


def check_pixels(
    width: int, height: int, name: str, most: int | None = None, wanted: int = 0
) -> None:
  """Raises ImageError for a picture of so many pixels, before it is decoded.

  Args:
    width: as its header says.
    height: likewise.
    name: of the file.
    most: pixels that are allowed; None: MAX_PIXELS.
    wanted: bytes that decoding takes, where that may be the higher limit; the
      memory that the message names allows both.
  """
  most = MAX_PIXELS if most is None else most
  if width * height > most:
    times = most / MAX_PIXELS
    raise ImageError(
        name,
        f'it has {width} x {height} pixels, wanted at most {most:,} in all; '
        + _advice(
            max(int(width * height / times) * _PIXEL, wanted + _PROCESS)
        ),
    )


def fits(wanted: int) -> bool:
  """Whether there is memory for decoding that takes so many bytes."""
  return wanted + _PROCESS <= MEMORY


def check_memory(wanted: int, name: str) -> None:
  """Raises ImageError for a picture that takes so many bytes to decode."""
  if not fits(wanted):
    raise ImageError(
        name,
        f'decoding it may take {-(-wanted // 2**20):,} MiB, wanted at most '
        f'{(MEMORY - _PROCESS) >> 20:,}; {_advice(wanted + _PROCESS)}',
    )


def check_shape(width: int, height: int, name: str) -> None:
  """Raises ImageError for a picture of which no square can be made."""
  shorter, longer = sorted((width, height))
  if shorter < SMALLEST_SIDE or longer > LARGEST_ASPECT * shorter:
    raise ImageError(
        name,
        f'it has {width} x {height} pixels, wanted at least {SMALLEST_SIDE} on '
        f'each side and no side more than {LARGEST_ASPECT} times the other',
    )


def _advice(wanted):
  return f'--image_memory={-(-wanted // 2**20)} allows it'
