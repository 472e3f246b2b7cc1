"""Draws the kernels of the first layer and measures their colourfulness.

The paper's Figure 3 shows the 96 kernels of conv1. Those of one tower are
mostly colour-agnostic, those of the other mostly colour-specific.
"""

import dataclasses
import functools
import operator
from typing import Any

import numpy as np

# Columns of the picture: three rows for a tower's 48 kernels, as in the paper.
_COLUMNS = 16
_GAP = 1
# Rows of pixels between the towers.
_SEAM = 5
# Share for random weights: two of the three colour dimensions are chroma.
OF_NOISE = 2 / 3


@dataclasses.dataclass(frozen=True)
class Colourfulness:
  """Colourfulness of a tower's kernels, from 0 to 1.

  Attributes:
    share: chroma's share of the sum of squares of all weights.
    kernels: [kernels] the same share for each kernel.
  """

  share: float
  kernels: np.ndarray


def first_layer(params: Any) -> tuple[str, ...] | None:
  """Finds the path of the kernels that read the image.

  Args:
    params: nested dictionaries of arrays or shapes.

  Returns:
    The names along the path, or None if no layer reads an image's channels.
  """
  for name, value in sorted(params.items()):
    if hasattr(value, 'items'):
      if below := first_layer(value):
        return name, *below
    elif len(value.shape) == 4 and value.shape[2] in (1, 3):
      return (name,)
  return None


def first_kernels(params: Any) -> np.ndarray | None:
  """Kernels that read the image, [size, size, channels, kernels], or None."""
  names = first_layer(params)
  if names is None:
    return None
  kernels = functools.reduce(operator.getitem, names, params)
  return np.asarray(kernels, np.float32)


def chroma_shares(kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Splits each kernel's sum of squares into chroma and the rest.

  At each position of a kernel the weights of red, green and blue are a vector.
  Its component along (1, 1, 1), which responds to grey, is luminance; the rest,
  which does not, is chroma.

  Args:
    kernels: [size, size, 3, kernels].

  Returns:
    ([kernels] sums of squares, [kernels] their chroma), float64.
  """
  kernels = kernels.astype(np.float64)
  luminance = kernels.mean(axis=2, keepdims=True)
  total = np.sum(kernels**2, axis=(0, 1, 2))
  return total, np.sum((kernels - luminance) ** 2, axis=(0, 1, 2))


def colourfulness(kernels: np.ndarray, towers: int) -> list[Colourfulness]:
  """Measures each tower's colourfulness: 0 is grey, 2 / 3 are random weights.

  Args:
    kernels: [size, size, 3, kernels].
    towers: number of towers; each has an equal range of the kernels.
  """
  result = []
  for part in _of_towers(kernels, towers):
    total, chroma = chroma_shares(part)
    each = np.divide(chroma, total, out=np.zeros_like(total), where=total > 0)
    share = chroma.sum() / total.sum() if total.any() else 0.0
    result.append(Colourfulness(float(share), each))
  return result


def picture(kernels: np.ndarray, towers: int, scale: int = 4) -> np.ndarray:
  """Draws the kernels, one tower below the other, as in the paper's Figure 3.

  Each kernel is scaled by its largest absolute weight; zero is mid-grey.

  Args:
    kernels: [size, size, channels, kernels].
    towers: number of towers; each has an equal range of the kernels.
    scale: pixels per weight, in each direction.

  Returns:
    [height, width, 4] uint8, RGB and opacity. Gaps are transparent, or white in
    viewers without transparency.
  """
  parts = [_sheet(part) for part in _of_towers(kernels, towers)]
  seam = _nothing(_SEAM, parts[0].shape[1])
  rows = [parts[0]]
  for part in parts[1:]:
    rows += [seam, part]
  return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)


def _of_towers(kernels, towers):
  # Towers of a definition file may share a layer.
  shared = kernels.shape[-1] % towers != 0
  return np.split(kernels, 1 if shared else towers, axis=-1)


def _sheet(kernels):
  size, count = kernels.shape[0], kernels.shape[-1]
  columns = min(_COLUMNS, count)
  rows = -(-count // columns)
  step = size + _GAP
  sheet = _nothing(rows * step - _GAP, columns * step - _GAP)
  largest = np.abs(kernels).max(axis=(0, 1, 2))
  scaled = kernels / np.where(largest > 0, largest, 1)
  levels = np.round(127.5 + 127.5 * scaled).astype(np.uint8)
  for index in range(count):
    top, left = (step * i for i in divmod(index, columns))
    place = sheet[top : top + size, left : left + size]
    place[..., :3], place[..., 3] = levels[..., index], 255
  return sheet


def _nothing(height, width):
  return np.tile(np.array([255, 255, 255, 0], np.uint8), (height, width, 1))
