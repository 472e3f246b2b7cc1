"""What may be set of pictures, known without Pillow and simplejpeg."""

from typing import Any

# Three levels of 0..255; (): what is transparent shows the colour that is
# stored there, as older runs had it.
Background = tuple[int, ...]
# What viewers and editors put under a picture, and what is printed on.
WHITE = (255, 255, 255)
# Side of a square in pixels. Up to this one a row's sums of products are exact
# in float32, see statistics.
LARGEST_SQUARE = 258


def is_background(value: Any) -> bool:
  """Whether a value of a file or a config is a background."""
  return (
      isinstance(value, (tuple, list))
      and len(value) in (0, 3)
      and all(type(level) is int and 0 <= level <= 255 for level in value)
  )
