"""Reads and applies the orientation of images.

Only this number is read from EXIF and XMP. Data that cannot be read counts as
missing.
"""

import re

from PIL import Image

_TAG = 274
# Bytes of EXIF's integers: byte, short and long.
_SIZES = {1: 1, 3: 2, 4: 4}
_XMP = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])(?!\d)')
# EXIF 2.3, 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def of_exif(data: bytes) -> int | None:
  """Returns the orientation in EXIF data, 1 to 8, or None."""
  data = data.removeprefix(b'Exif\0\0')
  order = {b'II': 'little', b'MM': 'big'}.get(data[:2])
  if order is None:
    return None
  number = lambda place, size: int.from_bytes(data[place : place + size], order)
  first = number(4, 4) + 2
  end = min(first + 12 * number(first - 2, 2), len(data) - 11)
  for entry in range(first, end, 12):
    if number(entry, 2) == _TAG:
      size = _SIZES.get(number(entry + 2, 2), 0)
      return valid(number(entry + 8, size))
  return None


def of_xmp(data: bytes) -> int | None:
  """Returns the orientation in XMP data, 1 to 8, or None."""
  found = _XMP.search(data)
  return int(found[1]) if found else None


def valid(value: int) -> int | None:
  """Returns a valid orientation unchanged, else None."""
  return value if 1 <= value <= 8 else None


def upright(image: Image.Image, orientation: int) -> Image.Image:
  """Turns a picture upright."""
  turn = _TURNS.get(orientation)
  return image if turn is None else image.transpose(turn)
