"""Decoding, crops and lighting against NumPy, TensorFlow and hand work."""

from tests import testing  # isort: skip

import functools
import io
import pathlib
import struct
import zlib

import numpy as np
import scipy.stats
import tensorflow as tf
from absl.testing import absltest, parameterized
from PIL import Image

from input_pipeline import preprocessing
from input_pipeline.errors import DataError

del testing

SAMPLES = (
    pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'imagenet_samples'
)
ORIENTATION = 274  # EXIF tag.
# Options of the best quality, and the levels that are lost all the same.
EXACT = {'PNG': {}, 'JPEG': {'quality': 95, 'subsampling': 0}}
LOSS = {'PNG': 0, 'JPEG': 4}

# Run #145's, by facts of the authors' release; an eigenvector a column.
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
EIGENVECTORS = np.stack(
    [
        (0.4180, -0.8170, 0.3973),
        (-0.7126, -0.0235, 0.7012),
        (-0.5635, -0.5762, -0.5920),
    ],
    axis=1,
)


def encode(image, kind='PNG', **options):
  """A file of a Pillow image or an array."""
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def decode(encoded):
  return np.asarray(preprocessing.decode(encoded, 'x.jpg'))


def noise(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, shape).astype(np.uint8)


def blocks(height, width, seed=0):
  """Flat squares of 16 pixels, which JPEG keeps nearly as they are."""
  small = noise(height // 16, width // 16, 3, seed=seed)
  return small.repeat(16, axis=0).repeat(16, axis=1)


def assert_levels(actual, expected, delta):
  """Compares 8-bit images, which must not wrap around."""
  difference = np.abs(np.asarray(actual, float) - np.asarray(expected, float))
  np.testing.assert_array_less(difference, delta + 1e-6)


class DecodeTest(parameterized.TestCase):

  def test_rgb(self):
    pixels = noise(7, 9, 3)
    np.testing.assert_array_equal(decode(encode(pixels)), pixels)
    jpeg = encode(blocks(48, 32), 'JPEG', quality=95)
    assert_levels(decode(jpeg), tf.io.decode_jpeg(jpeg), 2)

  def test_grey(self):
    pixels = noise(7, 9)
    expected = np.stack([pixels] * 3, axis=-1)
    np.testing.assert_array_equal(decode(encode(pixels)), expected)
    jpeg = encode(blocks(48, 32)[..., 0], 'JPEG')
    self.assertEqual(Image.open(io.BytesIO(jpeg)).mode, 'L')
    assert_levels(decode(jpeg), tf.io.decode_jpeg(jpeg, channels=3), 2)

  def test_two_levels(self):
    bits = noise(7, 9) > 127
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(bits))),
        np.stack([bits * 255] * 3, axis=-1),
    )

  def test_cmyk(self):
    inks = np.empty((32, 32, 4), np.uint8)
    inks[:, :16] = 40, 120, 200, 30
    inks[:, 16:] = 0, 255, 10, 90
    jpeg = encode(Image.fromarray(inks, 'CMYK'), 'JPEG', quality=95)
    # Each ink, and black, takes its share of the light.
    light = 255 - inks.astype(float)
    assert_levels(decode(jpeg), light[..., :3] * light[..., 3:] / 255, 3)
    assert_levels(decode(jpeg), tf.io.decode_jpeg(jpeg, channels=3), 3)

  def test_palette(self):
    palette = noise(5, 3)
    indices = noise(7, 9) % 5
    image = Image.fromarray(indices, 'P')
    image.putpalette(palette.tobytes())
    for options in ({}, {'transparency': 0}):
      np.testing.assert_array_equal(
          decode(encode(image, **options)), palette[indices]
      )

  def test_transparency_is_dropped(self):
    pixels = noise(7, 9, 4)
    np.testing.assert_array_equal(decode(encode(pixels)), pixels[..., :3])
    grey = noise(7, 9, 2)
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(grey, 'LA'))),
        np.stack([grey[..., 0]] * 3, axis=-1),
    )

  def test_16_bits_by_hand(self):
    levels = np.array([[0, 255, 256, 0x1234], [65535, 32768, 511, 65280]])
    np.testing.assert_array_equal(
        decode(encode(levels.astype(np.uint16)))[..., 1],
        [[0, 0, 1, 0x12], [255, 128, 1, 255]],
    )

  @parameterized.parameters(1, 2, 3, 4)
  def test_16_bits(self, channels):
    levels = np.random.default_rng(0).integers(0, 65536, (7, 9, channels))
    png = tf.io.encode_png(levels.astype(np.uint16)).numpy()
    colors = levels[..., :3] if channels > 2 else levels[..., [0, 0, 0]]
    np.testing.assert_array_equal(decode(png), colors >> 8)

  @parameterized.product(
      # How a stored image has to be turned to be upright (EXIF 2.3, 4.6.4).
      turn=(
          (1, lambda x: x),
          (2, lambda x: x[:, ::-1]),
          (3, lambda x: x[::-1, ::-1]),
          (4, lambda x: x[::-1]),
          (5, lambda x: x.transpose(1, 0, 2)),
          (6, lambda x: np.rot90(x, -1)),
          (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
          (8, lambda x: np.rot90(x, 1)),
      ),
      kind=('PNG', 'JPEG'),
  )
  def test_exif_orientation(self, turn, kind):
    value, upright = turn
    stored = blocks(48, 80)
    exif = Image.Exif()
    exif[ORIENTATION] = value
    image = decode(encode(stored, kind, exif=exif, **EXACT[kind]))
    self.assertEqual(image.shape, upright(stored).shape)
    assert_levels(image, upright(stored), LOSS[kind])

  @parameterized.product(
      kind=('PNG', 'JPEG'),
      exif=(
          b'Exif\0\0garbage',
          # An orientation of 9, which does not exist.
          b'Exif\0\0II*\0\x08\0\0\0\x01\0'
          b'\x12\x01\x03\0\x01\0\0\0\x09' + bytes(7),
      ),
  )
  def test_bad_exif_leaves_the_image_as_it_is(self, kind, exif):
    stored = blocks(48, 80)
    image = decode(encode(stored, kind, exif=exif, **EXACT[kind]))
    assert_levels(image, stored, LOSS[kind])


def huge_png():
  """A PNG file of 100 bytes that says it has 900 million pixels."""
  def chunk(kind, data):
    crc = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + crc

  header = struct.pack('>IIBBBBB', 30_000, 30_000, 8, 2, 0, 0, 0)
  return (
      b'\x89PNG\r\n\x1a\n'
      + chunk(b'IHDR', header)
      + chunk(b'IDAT', zlib.compress(bytes(100)))
      + chunk(b'IEND', b'')
  )


class DecodeErrorsTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('truncated_jpeg', lambda: encode(noise(90, 90, 3), 'JPEG')[:-2000]),
      ('truncated_png', lambda: encode(noise(90, 90, 3))[:-2000]),
      ('header_only', lambda: encode(noise(90, 90, 3), 'JPEG')[:100]),
      ('empty', lambda: b''),
      ('text', lambda: b'<html>404 Not Found</html>'),
      ('gif', lambda: encode(noise(9, 9), 'GIF')),
      ('huge', huge_png),
  )
  def test_names_the_file(self, make):
    for function in (preprocessing.decode, preprocessing.to_square):
      with self.assertRaisesRegex(
          DataError, r'cannot decode cats/7\.jpg \(.*replace or remove'
      ):
        function(make(), 'cats/7.jpg')

  def test_says_why(self):
    with self.assertRaisesRegex(DataError, 'truncated'):
      preprocessing.decode(encode(noise(90, 90, 3), 'JPEG')[:-2000], 'x')
    with self.assertRaisesRegex(DataError, '900000000 pixels'):
      preprocessing.decode(huge_png(), 'x')


def by_tensorflow(pixels):
  """Shorter side to 256 and the centre square, by the op of tf.image.resize.

  Called itself, it can start between two pixels, which tf.image.resize and a
  cut after it cannot.
  """
  sides = np.array(pixels.shape[:2])
  scale = 256 / sides.min()
  square = tf.raw_ops.ScaleAndTranslate(
      images=np.asarray(pixels)[None],
      size=(256, 256),
      scale=np.array([scale, scale], np.float32),
      translation=(-scale * (sides - sides.min()) / 2).astype(np.float32),
      kernel_type='keyscubic',  # tf.image.resize's 'bicubic'.
      antialias=True,
  )
  return np.clip(np.round(square[0]), 0, 255)


class ToSquareTest(parameterized.TestCase):

  def square(self, image):
    square = preprocessing.to_square(encode(image), 'x.png')
    self.assertEqual(square.shape, (256, 256, 3))
    self.assertEqual(square.dtype, np.uint8)
    return square

  def test_same_size_is_exact(self):
    pixels = noise(256, 256, 3)
    np.testing.assert_array_equal(self.square(pixels), pixels)

  def test_cuts_the_centre_without_resizing(self):
    pixels = noise(256, 400, 3)
    np.testing.assert_array_equal(self.square(pixels), pixels[:, 72:328])
    np.testing.assert_array_equal(
        self.square(pixels.transpose(1, 0, 2)),
        pixels[:, 72:328].transpose(1, 0, 2),
    )

  @parameterized.parameters(False, True)
  def test_bands(self, tall):
    """Of four bands of 150 x 300 the centre square has the middle two."""
    colors = np.array(
        [(255, 0, 0), (0, 200, 0), (0, 0, 150), (255, 255, 255)], np.uint8
    )
    image = np.broadcast_to(colors.repeat(150, axis=0), (300, 600, 3))
    if tall:
      image = image.transpose(1, 0, 2)
    square = self.square(np.ascontiguousarray(image))
    if tall:
      square = square.transpose(1, 0, 2)
    # The filter is 5 pixels wide, or 4 of the square.
    for first, color in ((3, colors[1]), (131, colors[2])):
      np.testing.assert_array_equal(
          square[:, first : first + 122],
          np.broadcast_to(color, (256, 122, 3)),
      )

  @parameterized.parameters((512, 1024), (768, 512), (600, 512))
  def test_pillow_resize_then_crop(self, height, width):
    pixels = noise(height, width, 3)
    scale = 256 / min(height, width)
    width, height = round(width * scale), round(height * scale)
    resized = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    left, top = (width - 256) // 2, (height - 256) // 2
    expected = resized.crop((left, top, left + 256, top + 256))
    assert_levels(self.square(pixels), np.asarray(expected), 1)

  @parameterized.parameters(
      (512, 1024), (640, 480), (333, 500), (128, 200), (64, 64)
  )
  def test_tensorflow(self, height, width):
    # Noise: aliasing, a shift or another filter would show.
    pixels = noise(height, width, 3)
    pixels = (pixels // 2 + np.roll(pixels, 1, 0) // 2).astype(np.uint8)
    square = self.square(pixels)
    # Pillow rounds between its two passes.
    self.assertLess(np.abs(square - by_tensorflow(pixels)).mean(), 0.4)

  @parameterized.parameters((512, 1024), (480, 320), (128, 200))
  def test_tensorflow_resize_then_crop(self, height, width):
    pixels = noise(height, width, 3)
    scale = 256 / min(height, width)
    size = round(height * scale), round(width * scale)
    resized = tf.image.resize(pixels, size, 'bicubic', antialias=True)
    expected = tf.image.resize_with_crop_or_pad(resized, 256, 256)
    difference = self.square(pixels) - np.clip(np.round(expected), 0, 255)
    self.assertLess(np.abs(difference).mean(), 0.4)

  @parameterized.parameters(
      (300, 301), (301, 300), (375, 500), (500, 333), (48, 64)
  )
  def test_ramp(self, height, width):
    """A linear ramp has a closed form: no shift, not by half a pixel."""
    side = min(height, width)
    slope = 250 / max(height, width)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([slope * rows, slope * columns, 0 * rows], axis=-1)
    square = self.square(np.round(image).astype(np.uint8)).astype(float)
    # Centres of the square's pixels in those of the image.
    centres = (np.arange(256) + 0.5) * side / 256 - 0.5
    inner = slice(4, 252)  # At its border an image is extended by its edge.
    for axis, length in ((0, height), (1, width)):
      got = square[inner, inner, axis].mean(1 - axis)
      expected = slope * (centres + (length - side) / 2)[inner]
      np.testing.assert_allclose(got, expected, atol=1.1)
      self.assertAlmostEqual((got - expected).mean(), 0, delta=0.06)

  @parameterized.parameters((1, 1), (1, 2999), (10, 2000), (2000, 10))
  def test_extremes(self, height, width):
    # Grey but for the square in the centre.
    side = min(height, width)
    image = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = 10, 200, 90
    square = self.square(image)
    assert_levels(square[128, 128], [10, 200, 90], 1)

  def test_samples_of_imagenet(self):
    files = sorted(SAMPLES.glob('*/*'))
    if not files:
      self.skipTest(f'no sample images in {SAMPLES}')
    self.assertLen(files, 117)
    differences = {}
    for file in files:
      encoded = file.read_bytes()
      square = preprocessing.to_square(encoded, file.name)
      self.assertEqual(square.shape, (256, 256, 3))
      self.assertEqual(square.dtype, np.uint8)
      pixels = tf.io.decode_jpeg(
          encoded, channels=3, dct_method='INTEGER_ACCURATE'
      ).numpy()
      exif = Image.open(io.BytesIO(encoded)).getexif()
      if exif.get(ORIENTATION) == 6:
        pixels = np.rot90(pixels, -1)
      difference = np.abs(square - by_tensorflow(pixels)).mean()
      differences[file.name] = difference
    worst = max(differences, key=differences.get)
    # By looking, levels: the worst has 0.24, and shifting a square by one pixel
    # makes at least 1.4 of it.
    self.assertLess(differences[worst], 0.5, worst)


# The place of each pixel, in its two channels.
PLACES = np.stack(np.mgrid[:256, :256], axis=-1).astype(np.uint8)


def corners_of_crops(count, *, offsets, flip, start=0):
  """[count, 2] places of the first and the last pixel in a crop's first row."""
  def corners(i):
    crop = preprocessing.random_crop(
        tf.constant(PLACES), seed=tf.stack([5, i]), offsets=offsets, flip=flip
    )
    return crop[0, 0], crop[0, -1]

  numbers = tf.data.Dataset.range(start, start + count, output_type=tf.int32)
  first, last = next(numbers.map(corners, 2).batch(count).as_numpy_iterator())
  return first.astype(int), last.astype(int)


class RandomCropTest(parameterized.TestCase):

  @parameterized.product(offsets=(32, 33), flip=(False, True))
  def test_is_a_slice_of_the_image(self, offsets, flip):
    mirrored = 0
    for i in range(20):
      crop = preprocessing.random_crop(
          tf.constant(PLACES), seed=[3, i], offsets=offsets, flip=flip
      ).numpy()
      if crop[0, 0, 1] > crop[0, -1, 1]:
        mirrored += 1
        crop = crop[:, ::-1]
      top, left = crop[0, 0]
      np.testing.assert_array_equal(
          crop, PLACES[top : top + 224, left : left + 224]
      )
      self.assertEqual(crop.shape, (224, 224, 2))
      self.assertLess(max(top, left), offsets)
    self.assertEqual(mirrored > 0, flip)
    self.assertLess(mirrored, 20)

  @parameterized.parameters(32, 33)
  def test_uniform(self, offsets):
    count = 4096
    first, last = corners_of_crops(count, offsets=offsets, flip=True)
    flipped = first[:, 1] > last[:, 1]
    top, left = first[:, 0], np.minimum(first[:, 1], last[:, 1])
    # Five standard deviations of a fair coin.
    self.assertAlmostEqual(flipped.mean(), 0.5, delta=2.5 / count**0.5)
    for offset in (top, left):
      counts = np.bincount(offset, minlength=offsets)
      self.assertLen(counts, offsets)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-4)
    # Independent of each other, in their high and in their low bits.
    for pair in (
        (top, flipped), (left, flipped),
        (top // 4, left // 4), (top % 8, left % 8),
    ):
      table = scipy.stats.contingency.crosstab(*pair).count
      self.assertGreater(scipy.stats.chi2_contingency(table).pvalue, 1e-4)

  def test_one_offset(self):
    first, last = corners_of_crops(20, offsets=1, flip=False)
    np.testing.assert_array_equal(first, np.zeros((20, 2)))
    np.testing.assert_array_equal(last, np.tile([0, 223], (20, 1)))

  def test_eager_and_in_map(self):
    first, last = corners_of_crops(24, offsets=33, flip=True)
    for i in range(24):
      crop = preprocessing.random_crop(
          tf.constant(PLACES), seed=[5, i], offsets=33, flip=True
      ).numpy()
      np.testing.assert_array_equal(crop[0, 0], first[i])
      np.testing.assert_array_equal(crop[0, -1], last[i])
    self.assertGreater(len(np.unique(first, axis=0)), 12)

  def test_keeps_the_type(self):
    crop = preprocessing.random_crop(
        tf.constant(PLACES, tf.float32), seed=[0, 0], offsets=32, flip=True
    )
    self.assertEqual(crop.dtype, tf.float32)


def lighting_shifts(count, kind, scale=0.1):
  """[count, 3] shifts."""
  shift = lambda i: preprocessing.lighting_shift(
      seed=tf.stack([7, i]), kind=kind, scale=scale, deviations=DEVIATIONS,
      eigenvectors=EIGENVECTORS,
  )
  numbers = tf.data.Dataset.range(count, output_type=tf.int32)
  return next(numbers.map(shift, 2).batch(count).as_numpy_iterator())


class LightingShiftTest(parameterized.TestCase):

  @parameterized.parameters(
      # Lengths of the components for pixels in 0..255; in 0..1 the eigenvalue
      # is (sd / 255)^2, and 255 times that again in 0..255.
      ('standard_deviation', (19.7208, 37.0939, 121.7801), 12.2),
      ('eigenvalue', (1.52514, 5.39585, 58.15824), 5.8),
  )
  def test_covariance(self, kind, lengths, main):
    count = 8192
    shifts = lighting_shifts(count, kind)
    self.assertEqual(shifts.dtype, np.float32)
    covariance = np.cov(shifts.T.astype(float))
    # Against V diag(length^2 * 0.01) V^T, in units of each component: a
    # variance has a sampling error of sqrt(2 / n), here five of them.
    units = EIGENVECTORS / (0.1 * np.array(lengths))
    np.testing.assert_allclose(
        units.T @ covariance @ units, np.eye(3), atol=5 * (2 / count) ** 0.5
    )
    np.testing.assert_allclose(
        covariance,
        EIGENVECTORS @ np.diag(np.square(lengths) * 0.01) @ EIGENVECTORS.T,
        atol=5 * (2 / count) ** 0.5 * (0.1 * lengths[2]) ** 2,
    )
    np.testing.assert_allclose(
        (shifts @ units).mean(0), 0, atol=5 / count**0.5
    )
    # The levels that facts of the two descriptions give.
    along = shifts @ EIGENVECTORS[:, 2]
    self.assertAlmostEqual(along.std() / main, 1, delta=0.04)

  def test_scale(self):
    np.testing.assert_allclose(
        lighting_shifts(8, 'eigenvalue', 0.3),
        3 * lighting_shifts(8, 'eigenvalue', 0.1),
        rtol=1e-5,
    )

  def test_the_normal_numbers(self):
    along = lighting_shifts(4096, 'standard_deviation') @ EIGENVECTORS[:, 2]
    result = scipy.stats.kstest(along / 12.17801, 'norm')
    self.assertGreater(result.pvalue, 1e-4)

  def test_eager_and_in_map(self):
    shifts = lighting_shifts(8, 'eigenvalue')
    for i in range(8):
      eager = preprocessing.lighting_shift(
          seed=[7, i], kind='eigenvalue', scale=0.1, deviations=DEVIATIONS,
          eigenvectors=EIGENVECTORS,
      )
      np.testing.assert_allclose(eager, shifts[i], rtol=1e-6, atol=1e-6)
    self.assertLen(np.unique(shifts, axis=0), 8)


class ViewsTest(absltest.TestCase):

  def both(self, function, image):
    """The result in eager mode, which that inside of map must equal."""
    eager = function(tf.constant(image)).numpy()
    dataset = tf.data.Dataset.from_tensors(image).map(function)
    mapped = next(dataset.as_numpy_iterator())
    np.testing.assert_array_equal(eager, mapped)
    return eager

  def test_centre(self):
    image = noise(256, 256, 3)
    expected = image[16:240, 16:240]
    np.testing.assert_array_equal(
        self.both(preprocessing.centre_crop, image), expected
    )
    np.testing.assert_array_equal(
        self.both(preprocessing.centre_view, image), expected[None]
    )

  def test_ten_views(self):
    image = noise(256, 256, 3).astype(np.float32)
    five = [
        image[:224, :224], image[:224, 32:], image[32:, :224], image[32:, 32:],
        image[16:240, 16:240],
    ]
    mirrored = [view[:, ::-1] for view in five]
    np.testing.assert_array_equal(
        self.both(preprocessing.ten_views, image), np.stack(five + mirrored)
    )
    five_only = functools.partial(preprocessing.ten_views, mirror=False)
    np.testing.assert_array_equal(self.both(five_only, image), np.stack(five))


if __name__ == '__main__':
  absltest.main()
