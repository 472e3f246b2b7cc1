"""Converts all kinds of pixels to 8-bit RGB, see docs/images.md.

Keeps as much as fits into eight bits: levels of more bits are shifted by their
actual depth, those without a natural white are stretched, and transparent
pixels are blended with a background.
"""

import re
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms, ImageFile

from input_pipeline.images.allowed import Background
from input_pipeline.images.containers import Parts

# Bit depths of cameras, scanners, X-ray machines, and of words. There are few,
# so that all images of a machine are shifted alike.
_DEPTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32)
# Number of rows converted at a time.
_ROWS = 256
# Pillow's names for 16-bit words, of which it keeps one byte.
_WORDS = re.compile(r'(RGB|RGBX|RGBA);16([BLN])')
_OTHER_BYTE = {
    'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'
}


def to_rgb(
    open_image: Callable[[], ImageFile.ImageFile],
    parts: Parts,
    background: Background,
) -> Image.Image:
  """Decodes a file to 8-bit RGB.

  Args:
    open_image: opens the file in Pillow; may be called again.
    parts: the file.
    background: colour behind transparent pixels.

  Returns:
    8-bit RGB as stored, not yet turned upright.
  """
  image = open_image()
  area = image.tile[0][1] if parts.kind == 'GIF' and image.tile else None
  words = _words(image)
  image.load()
  if parts.paired:
    grey, opacity = (
        _shifted(np.asarray(image)[..., k].astype(np.uint16) << 8
                 | np.asarray(image)[..., k + 1], None)
        for k in (0, 2)
    )
    image = Image.merge('LA', [*map(Image.fromarray, (grey, opacity))])
  elif image.mode == 'F' or image.mode.startswith('I'):
    image = _from_numbers(image, parts)
  elif words:
    image = _from_words(image, open_image, parts)
  elif parts.transparent and max(parts.transparent) < 256:
    colour = parts.transparent
    image.info['transparency'] = colour if len(colour) > 1 else colour[0]
  elif image.mode == 'LAB':
    image = ImageCms.profileToProfile(
        image, ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB'),
        outputMode='RGB',
    )
  if parts.kind == 'BMP' and image.mode == 'RGBA':
    # Programs without support for opacity leave zeros there.
    image = image if image.getextrema()[3][1] else image.convert('RGB')
  image = _flattened(image, background)
  if area and area != (0, 0, *image.size):
    whole = Image.new('RGB', image.size, background or 0)
    whole.paste(image.crop(area), area)
    image = whole
  return image


def _flattened(image, background):
  """Blends an image with a background, to RGB."""
  if not background or not image.has_transparency_data:
    return image.convert('RGB')
  if image.mode == 'La':
    image = image.convert('LA')
  image = image.convert('RGBA')
  flat = Image.new('RGB', image.size, background)
  flat.paste(image, mask=image)
  return flat


def _depth(largest, bits=None):
  """Returns the number of significant bits of levels stored in larger words.

  Args:
    largest: the largest level.
    bits: depth declared by the file. In PNG it counts from the upper bits, so
      that levels may exceed it; it is ignored then.
  """
  if bits and bits <= 16 and largest < 1 << bits:
    return max(8, bits)
  return next(depth for depth in _DEPTHS if largest < 1 << depth)


def _shifted(levels, bits):
  """Converts levels of more than eight bits to uint8."""
  shift = _depth(int(levels.max()), bits) - 8
  return _by_rows(levels, lambda rows: rows >> shift)


def _stretched(levels):
  """Converts numbers without a natural black and white to uint8."""
  low, high = _range(levels)
  if levels.dtype.kind == 'f' and low >= 0 and high <= 1:
    low, high = 0.0, 1.0
  factor = 255 / (high - low) if high > low else 0.0

  def convert(rows):
    # Also converts infinities and NaN.
    rows = np.nan_to_num(rows.astype(np.float64), nan=low)
    return np.rint((rows.clip(low, high) - low) * factor)

  return _by_rows(levels, convert)


def _range(levels):
  lows, highs = [], []
  for top in range(0, len(levels), _ROWS):
    rows = levels[top : top + _ROWS]
    rows = rows[np.isfinite(rows)]
    if rows.size:
      lows.append(float(rows.min()))
      highs.append(float(rows.max()))
  return min(lows, default=0.0), max(highs, default=1.0)


def _by_rows(levels, convert):
  """Applies a function to a few rows at a time; [height, width] uint8."""
  result = np.empty(levels.shape, np.uint8)
  for top in range(0, len(levels), _ROWS):
    result[top : top + _ROWS] = convert(levels[top : top + _ROWS])
  return result


def _from_numbers(image, parts):
  """Converts one-channel images: grey, 16 or 32 bits, or float."""
  levels = np.asarray(image)
  if levels.dtype.kind == 'f' or int(levels.min()) < 0:
    grey = _stretched(levels)
  else:
    grey = _shifted(levels, parts.bits)
  if parts.inverted:
    grey = 255 - grey
  image = Image.fromarray(grey)
  if parts.transparent:
    opacity = np.where(levels == parts.transparent[0], 0, 255)
    image.putalpha(Image.fromarray(opacity.astype(np.uint8)))
  return image


def _words(image):
  """Pillow's name for a file's 16-bit words, or None."""
  if not image.tile:
    return None
  args = image.tile[0][3]
  raw = args if isinstance(args, str) else args[0]
  return _WORDS.fullmatch(raw) if isinstance(raw, str) else None


def _from_words(high, open_image, parts):
  """Converts 16-bit colours of which Pillow has read the upper bytes."""
  largest = [256 * most + 255 for _, most in high.getextrema()]
  # Opacity has its own depth.
  depths = [_depth(max(largest[:3]), parts.bits)] * 3
  depths += [_depth(most, parts.bits) for most in largest[3:]]
  if set(depths) == {16} and not parts.transparent:
    return high
  low = open_image()
  for number, tile in enumerate(low.tile):
    low.tile[number] = _with_other_bytes(tile)
  low.load()
  up = np.array([16 - depth for depth in depths], np.uint8)
  down = np.array([depth - 8 for depth in depths], np.uint8)
  hidden = None
  if parts.transparent:
    hidden = np.divmod(parts.transparent, 256)
    mask = Image.new('L', high.size)
  for top in range(0, high.height, _ROWS):
    box = (0, top, high.width, min(high.height, top + _ROWS))
    upper, lower = np.asarray(high.crop(box)), np.asarray(low.crop(box))
    if hidden:
      seen = (upper != hidden[0]) | (lower != hidden[1])
      opacity = seen.any(axis=-1) * np.uint8(255)
      mask.paste(Image.fromarray(opacity), box)
    high.paste(Image.fromarray(upper << up | lower >> down), box)
  if hidden:
    high.putalpha(mask)
  return high


def _with_other_bytes(tile):
  codec, extents, offset, args = tile
  swap = lambda raw: raw[:-1] + _OTHER_BYTE[raw[-1]]
  args = swap(args) if isinstance(args, str) else (swap(args[0]), *args[1:])
  if not hasattr(tile, '_replace'):  # Before Pillow 11.1.
    return codec, extents, offset, args
  return tile._replace(args=args)
