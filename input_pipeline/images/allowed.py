"""Allowed settings of images, without importing Pillow and simplejpeg."""

from typing import Any

# Three levels of 0..255. () shows the colour stored under transparent pixels,
# as older runs did.
Background = tuple[int, ...]
# The background of viewers, editors and paper.
WHITE = (255, 255, 255)
# Largest side of a square, and largest shorter side of stored rectangles, in
# pixels. Training scales images to at most 480 (He et al. 2015); a mean image
# of 512 takes 3 MB.
LARGEST_SQUARE = 512


def is_background(value: Any) -> bool:
  """Returns whether a value of a file or a config is a valid background."""
  return (
      isinstance(value, (tuple, list))
      and len(value) in (0, 3)
      and all(type(level) is int and 0 <= level <= 255 for level in value)
  )
