"""Regions of images that random crops show, for networks after AlexNet.

A region depends on the image's size, which is known only when it is read. So
random words are drawn in the chain (`batches/draws.py`), and become a region
here: a function of the words and the size alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

# Kinds of crops that are regions; a crop at 'offsets' in a square is none.
KINDS = ('scale', 'area')
# Tries of an area and an aspect that fit into the image.
TRIES = 10


class Region(NamedTuple):
  """A rectangle in an image, in its pixels, not always whole ones."""

  top: float
  left: float
  height: float
  width: float


@dataclasses.dataclass(frozen=True)
class Scale:
  """Resizes the shorter side to a random length, then cuts a random square.

  VGG's and ResNet's training (He et al. 2015, §3.4: "randomly sampled in [256,
  480] for scale augmentation"), as one region that is resized once.

  Attributes:
    lengths: shortest and longest length of the shorter side, in pixels; the
      first is at least `crop`.
    crop: side of the square, in pixels.
  """

  lengths: tuple[int, int]
  crop: int

  def __call__(self, words: Sequence[int], width: int, height: int) -> Region:
    """Returns the region of an image with this size, see `Area`."""
    low, high = self.lengths
    shorter, side = low + _below(high - low + 1, words[3]), min(width, height)
    # Pixels beyond the last whole one of the longer side are never shown.
    top, left = (
        _below(pixels * shorter // side - self.crop + 1, word)
        for pixels, word in zip((height, width), words)
    )
    return Region(
        *(x * side / shorter for x in (top, left, self.crop, self.crop))
    )


@dataclasses.dataclass(frozen=True)
class Area:
  """Cuts a random part of the area with a random aspect.

  GoogLeNet's training (Szegedy et al. 2014, §6: "between 8% and 100% of the
  image area [...] aspect ratio [...] [3/4, 4/3]"). The paper has no
  distribution of the aspect: its logarithm is uniform, so that an aspect is as
  likely as its inverse. Areas and aspects that do not fit are drawn again.

  Attributes:
    areas: smallest and largest share of the image's area.
    aspects: smallest and largest ratio of width to height.
  """

  areas: tuple[float, float]
  aspects: tuple[float, float]

  def __call__(self, words: Sequence[int], width: int, height: int) -> Region:
    """Returns the region of an image.

    Args:
      words: random words of 32 bits, as `draws.region_words` draws them.
      width: width of the image, in pixels.
      height: height of the image, in pixels.
    """
    logarithms = [*map(math.log, self.aspects)]
    for one, other in zip(words[4::2], words[5::2]):
      pixels = width * height * _between(*self.areas, one)
      aspect = math.exp(_between(*logarithms, other))
      columns = round(math.sqrt(pixels * aspect))
      rows = round(math.sqrt(pixels / aspect))
      if 1 <= columns <= width and 1 <= rows <= height:
        break
    else:  # As much of a very long image as the aspects allow.
      low, high = self.aspects
      columns = max(1, min(width, round(height * high)))
      rows = max(1, min(height, round(width / low)))
    top = _below(height - rows + 1, words[0])
    left = _below(width - columns + 1, words[1])
    return Region(top, left, rows, columns)


def of_config(augmentation: ml_collections.ConfigDict) -> Scale | Area | None:
  """Returns the regions of a config's section; None for 'offsets'."""
  if augmentation.crop == 'scale':
    return Scale(tuple(augmentation.scale), augmentation.crop_size)
  if augmentation.crop == 'area':
    return Area(tuple(augmentation.area), tuple(augmentation.aspect))
  return None


def _below(count, word):
  """Returns a whole number from 0 to count - 1."""
  return word * count >> 32


def _between(low, high, word):
  return low + (high - low) * (word / 2**32)
