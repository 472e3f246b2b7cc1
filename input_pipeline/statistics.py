"""Mean image and principal colours of a training set."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image

from input_pipeline import preprocessing
from input_pipeline.errors import DataError
from input_pipeline.files import streams, untrusted

# Most bytes of a file's arrays.
_LARGEST = 2**24
# Pixels of a row whose sum of products is exact: float32 is so below 2^24, and
# each product is at most 255^2.
_EXACT = 258

# Shares of red, green and blue in grey: ITU-R 601, as Pillow computes it.
LUMA = np.array([19595, 38470, 7471]) / 2**16

# ImageNet's, from the statistics released with cuda-convnet2, in levels of
# 0..255; eigenvectors are columns.
IMAGENET_CHANNEL_MEANS = np.array([127.30, 119.72, 104.91])
IMAGENET_DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
IMAGENET_EIGENVECTORS = np.array([
    [0.4180, -0.7126, -0.5635],
    [-0.8170, -0.0235, -0.5762],
    [0.3973, 0.7012, -0.5920],
])


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Statistics of images of one size, levels of 0..255.

  Attributes:
    mean_image: [size, size, channels] float32.
    covariance: [channels, channels] float64, of the values of all pixels.
  """

  mean_image: np.ndarray
  covariance: np.ndarray

  @property
  def channel_means(self) -> np.ndarray:
    """Mean colour, [channels]."""
    return self.mean_image.mean(axis=(0, 1), dtype=np.float64)

  def principal_components(self) -> tuple[np.ndarray, np.ndarray]:
    """([n] standard deviations, [n, n] eigenvectors as columns), ascending."""
    values, vectors = np.linalg.eigh(self.covariance)
    return np.sqrt(np.maximum(values, 0)), vectors


  def resized(self, size: int) -> 'Statistics':
    """Returns those of smaller images: the mean image with the same filter.

    The covariance stays that of the larger images.
    """
    channels = [
        Image.fromarray(channel).resize((size, size), preprocessing.FILTER)
        for channel in np.moveaxis(self.mean_image, -1, 0)
    ]
    return Statistics(np.stack(channels, axis=-1), self.covariance)

  def framed(self, border: int) -> 'Statistics':
    """Returns those of images with a black border."""
    before = self.channel_means
    margin = (border, border), (border, border), (0, 0)
    mean_image = np.pad(self.mean_image, margin)
    # Black pixels add to the number of pixels, but to no sum.
    share = self.mean_image.size / mean_image.size
    moments = share * (self.covariance + np.outer(before, before))
    after = share * before
    return Statistics(mean_image, moments - np.outer(after, after))

  def grey(self) -> 'Statistics':
    """Returns those of grey images: [size, size, 1] and [1, 1]."""
    mean_image = (self.mean_image @ LUMA)[..., None].astype(np.float32)
    variance = LUMA @ self.covariance @ LUMA
    return Statistics(mean_image, variance.reshape(1, 1))


def imagenet(
    channels: int,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
  """Returns ImageNet's mean colour and its principal components.

  Args:
    channels: 3, or 1 for grey.
  """
  components = IMAGENET_DEVIATIONS, IMAGENET_EIGENVECTORS
  if channels == 3:
    return IMAGENET_CHANNEL_MEANS, components
  covariance = (
      IMAGENET_EIGENVECTORS * IMAGENET_DEVIATIONS**2 @ IMAGENET_EIGENVECTORS.T
  )
  grey = Statistics(IMAGENET_CHANNEL_MEANS[None, None], covariance).grey()
  return grey.channel_means, grey.principal_components()


class Accumulator:
  """Integer sums over images: exact, and independent of the order.

  Attributes:
    count: number of images.
    pixel_sum: [size, size, 3] uint64.
    products: [3, 3] uint64, sums over all pixels of the products of channels.
  """

  def __init__(self, size: int = preprocessing.SQUARE):
    """Creates empty sums, for images of size x size pixels."""
    shape = (size, size, 3)
    self.count = 0
    self.pixel_sum = np.zeros(shape, np.uint64)
    self.products = np.zeros((3, 3), np.uint64)

  def add(self, square: np.ndarray) -> None:
    """Adds an image, [size, size, 3] uint8."""
    self.count += 1
    self.pixel_sum += square
    rows = square.astype(np.float32)
    for left in range(0, rows.shape[1], _EXACT):
      part = rows[:, left : left + _EXACT]
      products = np.matmul(part.transpose(0, 2, 1), part)
      self.products += products.sum(axis=0, dtype=np.float64).astype(np.uint64)

  def merge(self, other: 'Accumulator') -> None:
    """Adds the images of another accumulator."""
    self.count += other.count
    self.pixel_sum += other.pixel_sum
    self.products += other.products

  def statistics(self) -> Statistics:
    """Returns the statistics of all images added."""
    if not self.count:
      raise DataError('no image to compute statistics of')
    mean_image = self.pixel_sum / self.count
    mean = mean_image.mean(axis=(0, 1))
    pixels = self.count * self.pixel_sum.shape[0] ** 2
    covariance = self.products / pixels - np.outer(mean, mean)
    return Statistics(mean_image.astype(np.float32), covariance)


def compute(
    squares: Iterable[np.ndarray], total: int, size: int = preprocessing.SQUARE
) -> Statistics:
  """Computes the statistics of [size, size, 3] images, with a progress bar.

  Args:
    squares: the images, uint8; memory use does not grow with their number.
    total: number of images.
    size: their side, in pixels.
  """
  accumulator = Accumulator(size)
  for square in streams.progress(squares, 'training set statistics', total):
    accumulator.add(square)
  return accumulator.statistics()


def write(statistics: Statistics, file: BinaryIO) -> None:
  """Writes statistics; equal statistics give equal bytes."""
  np.savez(file, **dataclasses.asdict(statistics))


def load(path: pathlib.Path) -> Statistics:
  """Reads statistics."""
  try:
    arrays = untrusted.load_arrays(path, _LARGEST)
    side = arrays['mean_image'].shape[0]
    return Statistics(
        untrusted.check_array(
            'mean_image', arrays['mean_image'], 'f', (side, side, 3)
        ),
        untrusted.check_array('covariance', arrays['covariance'], 'f', (3, 3)),
    )
  except Exception as error:  # zipfile and NumPy raise many kinds.
    raise DataError(
        f'cannot read the statistics {path} ({error}): remove the file, they '
        'will be computed again'
    ) from error
