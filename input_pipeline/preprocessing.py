"""From an encoded image to what the network sees; every function stateless.

`to_square` runs in NumPy and Pillow, once for each image; the rest are
TensorFlow operations whose randomness comes from an explicit seed.
"""

import contextlib
import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from input_pipeline.errors import DataError

SQUARE = 256
CROP = 224
BORDER = SQUARE - CROP
# Pillow widens this filter when it shrinks an image, so nothing aliases.
FILTER = Image.Resampling.BICUBIC


def decode(encoded: bytes, name: str) -> Image.Image:
  """Decodes a JPEG or PNG to an upright RGB image.

  Greyscale, CMYK, palette, transparent and 16-bit images become 8-bit RGB, and
  the EXIF orientation is applied.

  Args:
    encoded: the file's bytes.
    name: of the file, for the error.

  Raises:
    DataError: truncated, not an image, or of dangerous size.
  """
  try:
    image = Image.open(io.BytesIO(encoded), formats=('JPEG', 'PNG'))
    # Raised for a PNG whose EXIF data cannot be parsed; the image still can.
    with contextlib.suppress(SyntaxError):
      image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16') or image.mode == 'I':
      # Pillow would clip 16-bit levels at 255 instead of scaling them.
      levels = np.asarray(image).astype(np.uint32) >> 8
      image = Image.fromarray(levels.astype(np.uint8))
    return image.convert('RGB')
  except Exception as error:  # Pillow raises many kinds for broken files.
    raise DataError(
        f'cannot decode {name} ({type(error).__name__}: {error}): replace or '
        'remove it'
    ) from error


def to_square(encoded: bytes, name: str) -> np.ndarray:
  """Decodes, resizes the shorter side to 256, cuts the centre square (§2).

  Args:
    encoded: a JPEG or PNG file.
    name: of the file, for the error.

  Returns:
    [256, 256, 3] uint8.

  Raises:
    DataError: the image cannot be decoded.
  """
  image = decode(encoded, name)
  # Cutting before resizing is the same square, and an image of extreme shape
  # cannot grow without bound.
  side = min(image.size)
  left, top = ((length - side) / 2 for length in image.size)
  square = image.resize(
      (SQUARE, SQUARE), FILTER, box=(left, top, left + side, top + side)
  )
  return np.asarray(square)


def random_crop(
    image: tf.Tensor, *, seed: tf.Tensor, offsets: int, flip: bool
) -> tf.Tensor:
  """Cuts a random 224 square and mirrors it in half of the cases (§4.1).

  Args:
    image: [256, 256, channels], of any dtype.
    seed: [2] int.
    offsets: number of offsets each way: 32 in the paper, 33 in the code.
    flip: whether to mirror.

  Returns:
    [224, 224, channels].
  """
  offset = tf.random.stateless_uniform(
      [2], seed, maxval=offsets, dtype=tf.int32
  )
  crop = tf.slice(image, [offset[0], offset[1], 0], [CROP, CROP, -1])
  if flip:
    coin = tf.random.stateless_uniform(
        [], tf.random.fold_in(seed, 1), maxval=2, dtype=tf.int32
    )
    crop = tf.cond(coin == 0, lambda: crop, lambda: tf.reverse(crop, [1]))
  return crop


def lighting_shift(
    *,
    seed: tf.Tensor,
    kind: str,
    scale: float,
    deviations: np.ndarray,
    eigenvectors: np.ndarray,
) -> tf.Tensor:
  """The colour that PCA lighting adds to an image (§4.1).

  Args:
    seed: [2] int.
    kind: 'standard_deviation' (run #145): V (sd * N(0, scale)) in levels of
      0..255. 'eigenvalue' (paper, on pixels in 0..1): V (sd^2 / 255 * N(0,
      scale)), which is 255 times the eigenvalue of pixels divided by 255.
    scale: standard deviation of the random factors, 0.1.
    deviations: [3] standard deviations along the components, levels of 0..255.
    eigenvectors: [3, 3], a component a column.

  Returns:
    [3] float32, levels of 0..255.
  """
  if kind == 'standard_deviation':
    lengths = np.asarray(deviations)
  else:
    lengths = np.asarray(deviations) ** 2 / 255
  factors = tf.random.stateless_normal([3], seed, stddev=scale)
  vectors = tf.constant(eigenvectors, tf.float32)
  return tf.linalg.matvec(vectors, tf.constant(lengths, tf.float32) * factors)


def centre_crop(image: tf.Tensor) -> tf.Tensor:
  """[256, 256, channels] to its centre [224, 224, channels]."""
  return _crop(image, BORDER // 2, BORDER // 2)


def centre_view(image: tf.Tensor) -> tf.Tensor:
  """[256, 256, channels] to [1, 224, 224, channels]: the centre crop."""
  return centre_crop(image)[None]


def ten_views(image: tf.Tensor, *, mirror: bool = True) -> tf.Tensor:
  """[256, 256, channels] to [10, 224, 224, channels] (§4.1).

  Four corners and the centre, then the mirror image of each; without mirror
  images [5, 224, 224, channels].
  """
  corners = [_crop(image, y, x) for y in (0, BORDER) for x in (0, BORDER)]
  five = tf.stack([*corners, centre_crop(image)])
  return tf.concat([five, tf.reverse(five, [2])], axis=0) if mirror else five


def _crop(image, top, left):
  return image[top : top + CROP, left : left + CROP]
