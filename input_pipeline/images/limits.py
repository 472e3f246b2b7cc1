"""Limits of the size of images, checked from their headers.

All limits follow from the memory for decoding one image, which every command's
flag --image_memory sets.
"""

from absl import flags
from PIL import Image

from input_pipeline.errors import DataError, ImageError

# MiB for one image, in each reading thread.
DEFAULT_MEMORY = 1024
# Images beyond these have too few pixels for a square. The smallest useful
# images are scikit-learn's digits.
SMALLEST_SIDE = 8
LARGEST_ASPECT = 100
# Bytes for decoding per pixel, and per byte of the file. The worst case is a
# progressive CMYK JPEG, with 12 bytes per pixel and the file twice.
_PIXEL = 16
_FILE = 8
# Bytes of a process before it decodes anything.
_PROCESS = 2**26
# Factor by which a JPEG may exceed the pixels decoded (see `jpeg.reduction`);
# it limits the time for reading them.
_REDUCED = 8

MEMORY = MAX_PIXELS = MAX_BYTES = MAX_JPEG_PIXELS = 0


def set_memory(mib: int) -> None:
  """Sets the limits of this process.

  Args:
    mib: memory for decoding one image, in MiB.

  Raises:
    DataError: less than the default, on which other limits depend.
  """
  global MEMORY, MAX_PIXELS, MAX_BYTES, MAX_JPEG_PIXELS
  if mib < DEFAULT_MEMORY:
    raise DataError(
        f'--image_memory is {mib}: expected at least {DEFAULT_MEMORY} (MiB)'
    )
  MEMORY = mib * 2**20
  MAX_PIXELS = MEMORY // _PIXEL
  MAX_BYTES = MEMORY // _FILE
  MAX_JPEG_PIXELS = _REDUCED * MAX_PIXELS
  if mib > DEFAULT_MEMORY:  # Pillow's own limit is 2.7 times the default.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)


set_memory(DEFAULT_MEMORY)


def define_flag() -> None:
  """Defines --image_memory unless it is defined already."""
  if 'image_memory' not in flags.FLAGS:
    flags.DEFINE_integer(
        'image_memory', DEFAULT_MEMORY,
        'Memory for decoding an image in each thread, in MiB. More memory '
        'allows larger images and files; see docs/images.md.',
    )


def check_bytes(count: int, name: str) -> None:
  """Raises ImageError for a file that is too large, before it is read."""
  if count > MAX_BYTES:
    raise ImageError(
        name,
        f'it has {count:,} bytes, expected at most {MAX_BYTES:,}; '
        + _advice(count * _FILE),
    )


def check_pixels(
    width: int, height: int, name: str, most: int | None = None, wanted: int = 0
) -> None:
  """Raises ImageError for an image with too many pixels, before decoding.

  Args:
    width: width in the header.
    height: height in the header.
    name: name of the file.
    most: allowed number of pixels; None for MAX_PIXELS.
    wanted: bytes needed for decoding, if this limit may be stricter; the memory
      that the message advises satisfies both.
  """
  most = MAX_PIXELS if most is None else most
  if width * height > most:
    times = most / MAX_PIXELS
    raise ImageError(
        name,
        f'it has {width} x {height} pixels, expected at most {most:,} in all; '
        + _advice(
            max(int(width * height / times) * _PIXEL, wanted + _PROCESS)
        ),
    )


def fits(wanted: int) -> bool:
  """Returns whether decoding that needs `wanted` bytes fits into memory."""
  return wanted + _PROCESS <= MEMORY


def check_memory(wanted: int, name: str) -> None:
  """Raises ImageError if decoding needs more than the allowed bytes."""
  if not fits(wanted):
    raise ImageError(
        name,
        f'decoding it may take {-(-wanted // 2**20):,} MiB, expected at most '
        f'{(MEMORY - _PROCESS) >> 20:,}; {_advice(wanted + _PROCESS)}',
    )


def check_shape(width: int, height: int, name: str) -> None:
  """Raises ImageError for an image too small or too elongated."""
  shorter, longer = sorted((width, height))
  if shorter < SMALLEST_SIDE or longer > LARGEST_ASPECT * shorter:
    raise ImageError(
        name,
        f'it has {width} x {height} pixels, expected at least {SMALLEST_SIDE} '
        f'on each side and no side more than {LARGEST_ASPECT} times the other',
    )


def _advice(wanted):
  return f'--image_memory={-(-wanted // 2**20)} allows it'
