"""Decodes image files within limits.

All image files that this program did not write itself are decoded here. Costs
in memory and time are checked from a file's headers before decoding: no file
takes more than `limits.MEMORY`, or more than seconds.
"""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from input_pipeline.errors import ImageError
from input_pipeline.images import containers, levels, limits, orientation
from input_pipeline.images.allowed import WHITE, Background

check_bytes = limits.check_bytes

# By the format that `containers` found. Pillow's own detection would try
# formats that are not checked there.
_OPENERS = {
    'JPEG': JpegImagePlugin.JpegImageFile,
    'PNG': PngImagePlugin.PngImageFile,
    'WebP': WebPImagePlugin.WebPImageFile,
    'GIF': GifImagePlugin.GifImageFile,
    'TIFF': TiffImagePlugin.TiffImageFile,
    'BMP': BmpImagePlugin.BmpImageFile,
}

# Pillow warns about each broken field of the metadata, which is not used here;
# a file can have thousands.
warnings.filterwarnings('ignore', module=r'PIL\.')


def decode(
    encoded: bytes, name: str, background: Background = WHITE
) -> Image.Image:
  """Decodes an image file to an upright RGB image.

  The format is taken from the content, not the name. docs/images.md describes
  the conversion of each kind of image. A JPEG of more than `MAX_PIXELS` pixels
  is decoded at a half, a quarter or an eighth of its size.

  Args:
    encoded: the file's bytes: JPEG, PNG, WebP, GIF, TIFF or BMP.
    name: name of the file, for the error.
    background: colour behind transparent pixels, levels of 0..255.

  Raises:
    ImageError: the file is truncated, not an image, too small, too elongated,
      or exceeds a limit; the message says what was found and expected.
  """
  parts = containers.take_apart(encoded, name)
  image = _decode_plain_jpeg(parts)
  if image is None:
    image = _decode_any(parts, name, background)
  image = orientation.upright(image, parts.orientation)
  limits.check_shape(*image.size, name)
  return image


def has_more_pages(encoded: bytes) -> bool:
  """Returns whether a file accepted by `decode` is a TIFF with unused pages."""
  return (
      encoded[:2] in (b'II', b'MM')
      and containers.take_apart(encoded, '').more_pages
  )


def decode_stored(
    encoded: bytes | np.ndarray, height: int, width: int
) -> np.ndarray:
  """Decodes a JPEG of prepared data.

  Args:
    encoded: the file.
    height: its height, in pixels.
    width: its width, in pixels.

  Returns:
    [height, width, 3] uint8.

  Raises:
    ValueError: it is not such a JPEG, or exceeds a limit.
  """
  try:
    check_bytes(len(encoded), '')
    encoded = bytes(encoded)
    containers.jpeg(encoded, '')
  except ImageError as error:
    raise ValueError(error.reason) from error
  rows, columns, space, _ = simplejpeg.decode_jpeg_header(encoded)
  if (rows, columns) != (height, width):
    raise ValueError(
        f'it has {columns} x {rows} pixels, expected {width} x {height}'
    )
  if space not in ('YCbCr', 'Gray'):
    raise ValueError(f'its colours are {space}, expected YCbCr')
  return simplejpeg.decode_jpeg(encoded)


def _decode_plain_jpeg(parts):
  """Decodes a common JPEG in half of Pillow's time; None for other files.

  Both use libjpeg-turbo with the same options, and give the same pixels.
  """
  if parts.kind != 'JPEG' or parts.reduction > 1:
    return None
  try:
    if simplejpeg.decode_jpeg_header(parts.data)[2] != 'YCbCr':
      return None
    return Image.fromarray(simplejpeg.decode_jpeg(parts.data))
  except ValueError:
    return None  # Pillow has a clearer message, or can decode it.


def _decode_any(parts, name, background):
  def open_image():
    image = _OPENERS[parts.kind](io.BytesIO(parts.data))
    if parts.reduction > 1:
      image.draft(None, [side // parts.reduction for side in image.size])
    limits.check_pixels(*image.size, name)
    return image

  try:
    return levels.to_rgb(open_image, parts, background)
  except ImageError:
    raise
  except SyntaxError as error:  # Pillow's error for unsupported kinds.
    raise ImageError(
        name,
        f'it begins like a {parts.kind} file, but its headers are broken or of '
        f'a kind that is not read ({error})',
    ) from error
  except Exception as error:  # Pillow raises many kinds for broken files.
    raise ImageError(name, f'{type(error).__name__}: {error}') from error
