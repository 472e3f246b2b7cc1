"""Decoding and squares against Pillow and TensorFlow."""

import io
import pathlib
import struct
import zlib
from unittest import mock

import numpy as np
import simplejpeg
import tensorflow as tf
from absl.testing import absltest, parameterized
from PIL import Image

from input_pipeline import preprocessing
from input_pipeline.errors import DataError, ImageError
from input_pipeline.images import decoding
from input_pipeline.images import levels as levels_lib

SAMPLES = (
    pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'imagenet_samples'
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
  return np.asarray(decoding.decode(encoded, 'x.jpg'))


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
    pixels = noise(9, 11, 3)
    np.testing.assert_array_equal(decode(encode(pixels)), pixels)
    jpeg = encode(blocks(48, 32), 'JPEG', quality=95)
    assert_levels(decode(jpeg), tf.io.decode_jpeg(jpeg), 2)

  def test_grey(self):
    pixels = noise(9, 11)
    expected = np.stack([pixels] * 3, axis=-1)
    np.testing.assert_array_equal(decode(encode(pixels)), expected)
    jpeg = encode(blocks(48, 32)[..., 0], 'JPEG')
    self.assertEqual(Image.open(io.BytesIO(jpeg)).mode, 'L')
    assert_levels(decode(jpeg), tf.io.decode_jpeg(jpeg, channels=3), 2)

  def test_two_levels(self):
    bits = noise(9, 11) > 127
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
    indices = noise(9, 11) % 5
    image = Image.fromarray(indices, 'P')
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(encode(image)), palette[indices])
    # One of its colours is transparent.
    palette[0] = 255
    np.testing.assert_array_equal(
        decode(encode(image, transparency=0)), palette[indices]
    )

  def test_16_bits_by_hand(self):
    levels = np.array([[0, 255, 256, 0x1234], [65535, 32768, 511, 65280]])
    image = decode(encode(np.tile(levels, (4, 2)).astype(np.uint16)))
    np.testing.assert_array_equal(
        image[..., 1],
        np.tile([[0, 0, 1, 0x12], [255, 128, 1, 255]], (4, 2)),
    )

  @parameterized.parameters(1, 2, 3, 4)
  def test_16_bits(self, channels):
    levels = np.random.default_rng(0).integers(0, 65536, (9, 11, channels))
    png = tf.io.encode_png(levels.astype(np.uint16)).numpy()
    colors = levels[..., :3] if channels > 2 else levels[..., [0, 0, 0]]
    expected = colors >> 8
    if channels in (2, 4):
      opacity = (levels[..., -1:] >> 8) / 255
      expected = expected * opacity + 255 * (1 - opacity)
    assert_levels(decode(png), expected, 0.5 if channels in (2, 4) else 0)

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
      ('pdf', lambda: b'%PDF-1.4'),
      ('huge', huge_png),
  )
  def test_names_the_file(self, make):
    for function in (decoding.decode, preprocessing.to_square):
      with self.assertRaisesRegex(
          ImageError, r'^cannot use cats/7\.jpg \(.+\): replace or remove it$'
      ):
        function(make(), 'cats/7.jpg')

  @parameterized.named_parameters(
      (
          'truncated',
          lambda: encode(noise(90, 90, 3), 'JPEG')[:-2000],
          r'\(OSError: .*truncated',
      ),
      ('huge', huge_png, r'30000 x 30000 pixels, expected at most 67,108,864'),
      ('empty', lambda: b'', r'\(it is empty\)'),
      ('text', lambda: b'text', r'\(it is not a JPEG, PNG, .* file\)'),
      ('html', lambda: b'<html>', r'it is HTML, not a JPEG, PNG, .* file'),
      ('xml', lambda: b'<?xml version="1.0"?><svg>', 'it is XML, such as SVG,'),
      ('svg', lambda: b'<svg xmlns="">', 'it is SVG, not'),
      ('heif', lambda: b'\0\0\0\x18ftypmif1', 'it is HEIF, not'),
      ('pointer', lambda: b'version https://git-lfs.github.com/spec/v1\n',
       r'it is a Git LFS pointer \(git lfs pull gets the file\), not'),
  )
  def test_says_why(self, make, reason):
    with self.assertRaisesRegex(ImageError, reason):
      decoding.decode(make(), 'x')

  def test_parts_of_the_message(self):
    """For those who tell of many images, and are no other kind of error."""
    with self.assertRaises(DataError) as caught:
      decoding.decode(b'', 'a\nb\udcff.jpg')
    self.assertEqual(caught.exception.name, 'a\nb\udcff.jpg')
    self.assertEqual(caught.exception.reason, 'it is empty')
    # On one line, and of characters that a terminal can show.
    self.assertEqual(
        str(caught.exception),
        r'cannot use a\nb\udcff.jpg (it is empty): replace or remove it',
    )

  @parameterized.product(
      size=((1, 1), (7, 9), (9, 7), (8, 801), (801, 8), (10, 1001)),
      kind=('PNG', 'JPEG'),
  )
  def test_too_small_or_too_long(self, size, kind):
    height, width = size
    with self.assertRaisesRegex(
        ImageError, rf'{width} x {height} pixels, expected at least 8 .* 100'
    ):
      preprocessing.to_square(encode(noise(*size, 3), kind), 'x')

  @parameterized.product(
      size=((8, 8), (8, 800), (800, 8), (10, 1000)), kind=('PNG', 'JPEG')
  )
  def test_just_large_enough(self, size, kind):
    self.assertEqual(decode(encode(noise(*size, 3), kind)).shape, (*size, 3))


def photo(height, width, seed=0):
  """Smooth colours with some noise, as photographs have."""
  colours = Image.fromarray(noise(5, 7, 3, seed=seed))
  smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
  return (smooth * 0.8 + noise(height, width, 3, seed=seed) * 0.2).astype(
      np.uint8
  )


def by_pillow(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


def xmp(orientation):
  """Metadata as Adobe's programs write it, and Pillow reads it."""
  return (
      '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
      f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
  ).encode()


def ycck():
  """A JPEG file of four inks in Adobe's own coding."""
  tiles = noise(4, 4, 4, seed=3).repeat(16, axis=0).repeat(16, axis=1)
  inks = Image.fromarray(tiles, 'CMYK')
  # Pillow writes CMYK; the marker's last byte says how inks are coded.
  marker = b'\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00'
  encoded = encode(inks, 'JPEG', quality=95)
  assert encoded.count(marker + b'\0') == 1
  return encoded.replace(marker + b'\0', marker + b'\2')


class FastJpegTest(parameterized.TestCase):
  """The usual files are not decoded by Pillow, and nothing shows it."""

  def fast(self, encoded):
    with mock.patch.object(
        levels_lib, 'to_rgb', side_effect=AssertionError('decoded by Pillow')
    ):
      return decode(encoded)

  def slow(self, encoded):
    with mock.patch.object(
        simplejpeg, 'decode_jpeg',
        side_effect=AssertionError('not decoded by Pillow'),
    ):
      return decode(encoded)

  @parameterized.product(
      subsampling=('4:4:4', '4:2:2', '4:2:0'),
      options=({}, {'progressive': True}, {'optimize': True}),
      size=((48, 64), (61, 83)),
  )
  def test_equals_pillow(self, subsampling, options, size):
    image = photo(*size)
    for quality in (30, 50, 75, 90, 95, 100):
      encoded = encode(
          image, 'JPEG', quality=quality, subsampling=subsampling, **options
      )
      np.testing.assert_array_equal(self.fast(encoded), by_pillow(encoded))

  @parameterized.parameters('444', '422', '420', '440', '411')
  def test_equals_pillow_where_others_encode(self, subsampling):
    for quality in (30, 75, 100):
      encoded = simplejpeg.encode_jpeg(
          photo(61, 83), quality=quality, colorsubsampling=subsampling
      )
      np.testing.assert_array_equal(self.fast(encoded), by_pillow(encoded))

  def test_equals_pillow_with_other_metadata(self):
    image = photo(48, 64)
    for options in (
        {'icc_profile': b'profile' * 20}, {'comment': b'a cat'},
        {'restart_marker_rows': 1}, {'dpi': (300, 300)},
    ):
      encoded = encode(image, 'JPEG', **options)
      np.testing.assert_array_equal(self.fast(encoded), by_pillow(encoded))

  def test_samples_of_imagenet(self):
    files = sorted(SAMPLES.glob('*/*'))
    if not files:
      self.skipTest(f'no sample images in {SAMPLES}')
    for file in files:
      encoded = file.read_bytes()
      image = Image.open(io.BytesIO(encoded))
      exif = image.getexif()
      if exif.get(ORIENTATION, 1) == 1:
        np.testing.assert_array_equal(
            decode(encoded), np.asarray(image.convert('RGB')), file.name
        )

  def test_not_grey(self):
    tiles = blocks(48, 32)[..., 0]
    encoded = encode(tiles, 'JPEG', quality=95)
    expected = np.stack([tiles] * 3, axis=-1)
    assert_levels(self.slow(encoded), expected, LOSS['JPEG'])

  def test_not_cmyk(self):
    inks = noise(4, 4, 4).repeat(16, axis=0).repeat(16, axis=1)
    encoded = encode(
        Image.fromarray(inks, 'CMYK'), 'JPEG', quality=100, subsampling=0
    )
    light = 255 - inks.astype(float)
    expected = light[..., :3] * light[..., 3:] / 255
    assert_levels(self.slow(encoded), expected, 3)

  def test_not_adobes_ycck(self):
    encoded = ycck()
    expected = tf.io.decode_jpeg(encoded, channels=3)
    assert_levels(self.slow(encoded), expected, 4)

  def test_not_rgb(self):
    """Adobe's transform 0: the three channels are what they are."""
    image = blocks(48, 32)
    encoded = encode(image, 'JPEG', keep_rgb=True, quality=95)
    self.assertIn(b'Adobe\0d\0\0\0\0\0', encoded)
    assert_levels(self.slow(encoded), image, LOSS['JPEG'])

  def test_what_has_to_be_turned(self):
    stored = blocks(48, 80)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for options in ({'exif': exif}, {'xmp': xmp(6)}):
      encoded = encode(stored, 'JPEG', **EXACT['JPEG'], **options)
      assert_levels(self.fast(encoded), np.rot90(stored, -1), LOSS['JPEG'])
    # In both ways of writing it that Pillow knows.
    encoded = encoded.replace(
        b'tiff:Orientation="6"', b'tiff:Orientation>6< '
    )
    assert_levels(self.fast(encoded), np.rot90(stored, -1), LOSS['JPEG'])

  def test_truncated_wherever_pillow_says_so(self):
    encoded = encode(photo(61, 83), 'JPEG', quality=90)
    for length in (*range(100, len(encoded), 97), len(encoded) - 1):
      with self.assertRaises(OSError):
        by_pillow(encoded[:length])
      with self.assertRaisesRegex(ImageError, 'cannot use x.jpg'):
        decode(encoded[:length])

  def test_damaged_as_by_pillow(self):
    """A flipped bit: Pillow's pixels, or an error where it has one."""
    encoded = encode(photo(61, 83), 'JPEG', quality=90)
    rng = np.random.default_rng(0)
    for _ in range(100):
      damaged = bytearray(encoded)
      damaged[rng.integers(2, len(damaged))] ^= 1 << rng.integers(8)
      try:
        expected = by_pillow(bytes(damaged))
      except Exception:
        with self.assertRaises(ImageError):
          decode(bytes(damaged))
      else:
        np.testing.assert_array_equal(decode(bytes(damaged)), expected)


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

  @parameterized.parameters((8, 8), (8, 800), (10, 999), (1000, 10))
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


class BoxTest(parameterized.TestCase):
  """A part that is computed alone has the pixels of the whole, bit by bit."""

  @parameterized.parameters(
      (256, 256), (257, 256), (256, 511), (301, 300), (375, 500), (500, 375),
      (500, 333), (560, 400), (333, 500), (499, 499), (1023, 767),
      (129, 200), (200, 127), (64, 64), (8, 8), (9, 11), (8, 799), (999, 10),
      (31, 3000), (1500, 2000), (2001, 1499),
  )
  def test_equals_the_same_part_of_the_whole(self, height, width):
    encoded, image = b'', Image.fromarray(noise(height, width, 3))
    rng = np.random.default_rng(height + width)
    boxes = [
        *((top, left, 224) for top in (0, 16, 32) for left in (0, 16, 32)),
        *((*rng.integers(0, 33, 2), 224) for _ in range(8)),
        (255, 0, 1), (0, 255, 1), (1, 2, 253), (0, 0, 256),
    ]
    with mock.patch.object(decoding, 'decode', return_value=image):
      for aspect in ('keep', 'warp'):
        whole = preprocessing.to_square(encoded, 'x', aspect=aspect)
        for top, left, size in boxes:
          part = preprocessing.to_square(
              encoded, 'x', aspect=aspect,
              box=preprocessing.Box(int(top), int(left), size),
          )
          np.testing.assert_array_equal(
              part, whole[top : top + size, left : left + size]
          )

  def test_only_the_part_is_computed(self):
    """What a crop costs: 224^2 of 256^2 pixels."""
    encoded = encode(noise(300, 400, 3))
    sizes = []
    resize = Image.Image.resize

    def recorded(image, size, *args, **kwargs):
      sizes.append(size)
      return resize(image, size, *args, **kwargs)

    tall = encode(noise(3000, 300, 3))
    with mock.patch.object(Image.Image, 'resize', recorded):
      preprocessing.to_square(encoded, 'x', box=preprocessing.Box(3, 5, 224))
      preprocessing.to_square(tall, 'x')
    # Of the tall image only the rows in the square, and 2 * 300 / 256 more on
    # each side.
    self.assertEqual(sizes, [(224, 300), (224, 224), (256, 306), (256, 256)])

  def test_cut(self):
    square = noise(256, 256, 3)
    part = preprocessing.cut(square, preprocessing.Box(3, 30, 224))
    np.testing.assert_array_equal(part, square[3:227, 30:254])
    self.assertTrue(np.shares_memory(part, square))
    np.testing.assert_array_equal(
        preprocessing.cut(square, preprocessing.WHOLE), square
    )


class WarpTest(parameterized.TestCase):

  @parameterized.parameters(
      (512, 1024), (333, 500), (500, 333), (128, 200), (256, 256), (8, 800)
  )
  def test_equals_pillow(self, height, width):
    image = Image.fromarray(noise(height, width, 3))
    square = preprocessing.to_square(encode(image), 'x', aspect='warp')
    resize = lambda image, *size: image.resize(size, Image.Resampling.BICUBIC)
    rows = resize(image, 256, height)
    np.testing.assert_array_equal(square, np.asarray(resize(rows, 256, 256)))
    # Of tall images Pillow resizes the columns first, and rounds then.
    once = np.asarray(resize(image, 256, 256))
    if height <= width:
      np.testing.assert_array_equal(square, once)
    self.assertLess(np.abs(square.astype(int) - once).mean(), 0.5)

  def test_nothing_is_cut_off(self):
    image = np.full((300, 900, 3), 128, np.uint8)
    image[:, :300] = 10, 200, 90
    square = preprocessing.to_square(encode(image), 'x', aspect='warp')
    # A third of the image is a third of the square.
    np.testing.assert_array_equal(square[:, :80], [[[10, 200, 90]] * 80] * 256)
    np.testing.assert_array_equal(square[:, 90:], 128)
    kept = preprocessing.to_square(encode(image), 'x')
    np.testing.assert_array_equal(kept[:, 2:], 128)


if __name__ == '__main__':
  absltest.main()
