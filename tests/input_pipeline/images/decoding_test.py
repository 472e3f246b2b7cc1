"""What becomes of each kind of picture, by formula and by other libraries."""

import io
import pathlib
import re
import struct
import subprocess
import sys
import zlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from input_pipeline import sources
from input_pipeline.errors import DataError, ImageError
from input_pipeline.images import containers, decoding, limits

ROOT = pathlib.Path(__file__).parents[3]
ORIENTATION = 274
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def pixels(*shape, seed=0, high=256):
  return np.random.default_rng(seed).integers(0, high, shape)


def smooth(height=40, width=48):
  small = pixels(5, 6, 3).astype(np.uint8)
  return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def file_of(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def decode(encoded, *args):
  return np.asarray(decoding.decode(encoded, 'x', *args))


def rgb(grey):
  return np.stack([grey] * 3, axis=-1)


def chunk(kind, data, *, right=True):
  crc = zlib.crc32(kind + data) ^ (not right)
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
         (0, 1, 2, 2), (1, 0, 2, 1))


def png(levels, bits, *chunks, behind=(), interlaced=False):
  """A PNG of [height, width, channels] levels; chunks before its pixels."""
  height, width, channels = levels.shape
  colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  data = b''
  for top, left, down, across in ADAM7 if interlaced else ((0, 0, 1, 1),):
    rows = levels[top::down, left::across]
    if bits >= 8:
      rows = rows.astype(f'>u{bits // 8}')
    else:
      parts = rows[..., 0, None] >> np.arange(bits)[::-1] & 1
      rows = np.packbits(parts.reshape(height, -1), axis=1)
    data += b''.join(b'\0' + row.tobytes() for row in rows)
  header = struct.pack(
      '>IIBBBBB', width, height, bits, colours, 0, 0, interlaced
  )
  return b''.join((
      b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', header), *chunks,
      chunk(b'IDAT', zlib.compress(data)), *behind, chunk(b'IEND', b''),
  ))


def tiff(levels, *fields, order='<', bits=16, photometric=None):
  """An uncompressed TIFF of [height, width, channels]; more (tag, value)s."""
  height, width, channels = levels.shape
  kind = levels.dtype.kind if levels.dtype.kind == 'f' else 'u'
  rows = levels.astype(f'{order}{kind}{bits // 8}').tobytes()
  if photometric is None:
    photometric = 2 if channels > 2 else 1
  short = lambda tag, value: struct.pack(
      order + 'HHIHH', tag, 3, 1, value, 0
  )
  many = struct.pack(order + 'HHI', 258, 3, channels)
  many += struct.pack(order + 'I', 8 + len(rows)) if channels > 2 else (
      struct.pack(order + '2H', bits, bits)
  )
  entries = sorted(
      [
          short(256, width), short(257, height), many, short(259, 1),
          short(262, photometric),
          struct.pack(order + 'HHII', 273, 4, 1, 8), short(277, channels),
          short(278, height),
          struct.pack(order + 'HHII', 279, 4, 1, len(rows)),
          *(short(*field) for field in fields),
      ],
      key=lambda entry: struct.unpack(order + 'H', entry[:2]),
  )
  depths = struct.pack(f'{order}{channels}H', *[bits] * channels)
  return b''.join((
      b'II*\0' if order == '<' else b'MM\0*',
      struct.pack(order + 'I', 8 + len(rows) + len(depths)), rows, depths,
      struct.pack(order + 'H', len(entries)), *entries, bytes(4),
  ))


class FormatsTest(parameterized.TestCase):

  @parameterized.parameters(
      (kind, mode)
      for kind in ('PNG', 'WEBP', 'GIF', 'TIFF', 'BMP', 'JPEG')
      for mode in ('RGB', 'L', '1', 'P')
      if (kind, mode) != ('JPEG', 'P')
  )
  def test_equals_pillow(self, kind, mode):
    image = smooth()
    image = image.quantize(9) if mode == 'P' else image.convert(mode)
    encoded = file_of(image, kind)
    expected = Image.open(io.BytesIO(encoded)).convert('RGB')
    np.testing.assert_array_equal(decode(encoded), np.asarray(expected))

  @parameterized.parameters(
      ('RGB', 'raw'), ('RGB', 'tiff_lzw'), ('RGB', 'tiff_adobe_deflate'),
      ('RGB', 'tiff_deflate'), ('RGB', 'packbits'), ('RGB', 'jpeg'),
      ('L', 'jpeg'), ('1', 'group3'), ('1', 'group4'), ('1', 'tiff_ccitt'),
      ('CMYK', 'tiff_lzw'), ('YCbCr', 'raw'),
  )
  def test_compressions_of_tiff(self, mode, compression):
    encoded = file_of(smooth().convert(mode), 'TIFF', compression=compression)
    expected = Image.open(io.BytesIO(encoded)).convert('RGB')
    np.testing.assert_array_equal(decode(encoded), np.asarray(expected))

  def test_tiff_of_cie_lab(self):
    # Lightness 0, half and full, without colour.
    lab = np.zeros((9, 12, 3), np.uint8)
    lab[:, 4:8, 0], lab[:, 8:, 0] = 128, 255
    encoded = file_of(Image.fromarray(lab, 'LAB'), 'TIFF')
    # CIE: L* = 50.2 is a luminance of 0.1859; sRGB's curve makes 119.7 of it.
    expected = np.repeat([0, 120, 255], 4)
    difference = decode(encoded).astype(int) - expected[None, :, None]
    self.assertLess(np.abs(difference).max(), 3)

  @parameterized.parameters('lzma', 'zstd', 'webp', 'tiff_sgilog')
  def test_other_compressions_are_named(self, compression):
    number = TiffImagePlugin.COMPRESSION_INFO_REV[compression]
    encoded = tiff(pixels(9, 9, 3), bits=8).replace(
        struct.pack('<HHIHH', 259, 3, 1, 1, 0),
        struct.pack('<HHIHH', 259, 3, 1, number, 0),
    )
    with self.assertRaisesRegex(ImageError, f'{number}, expected none, LZW'):
      decode(encoded)

  @parameterized.parameters('WEBP', 'GIF', 'TIFF', 'PNG')
  def test_the_first_picture_counts(self, kind):
    first, other = Image.new('RGB', (16, 12), 'red'), Image.new('RGB', (16, 12))
    options = {'lossless': True} if kind == 'WEBP' else {}
    encoded = file_of(
        first, kind, save_all=True, append_images=[other, other], **options
    )
    np.testing.assert_array_equal(decode(encoded)[5, 5], (255, 0, 0))

  def test_a_gif_whose_first_picture_is_smaller(self):
    image = Image.new('P', (9, 8))
    image.putpalette([200, 10, 20] * 256)
    encoded = bytearray(file_of(image, 'GIF'))
    encoded[6:10] = struct.pack('<HH', 12, 10)  # The screen.
    expected = np.full((10, 12, 3), (5, 6, 7))
    expected[:8, :9] = 200, 10, 20
    np.testing.assert_array_equal(decode(bytes(encoded), (5, 6, 7)), expected)

  @parameterized.product(
      kind=('PNG', 'WEBP', 'GIF', 'TIFF', 'BMP', 'JPEG'),
      cut=(0.3, 0.6, 0.9),
  )
  def test_truncated(self, kind, cut):
    noise = Image.fromarray(pixels(40, 50, 3).astype(np.uint8))
    encoded = file_of(noise, kind)
    with self.assertRaises(ImageError):
      decode(encoded[: int(cut * len(encoded))])

  @parameterized.parameters('PNG', 'WEBP', 'GIF', 'TIFF', 'BMP', 'JPEG')
  def test_cut_off_in_its_headers(self, kind):
    options = {'exif': b'II*\0'} if kind == 'WEBP' else {}
    encoded = file_of(smooth(), kind, **options)
    for length in range(70):
      with self.assertRaises(ImageError):
        decode(encoded[:length])

  @parameterized.parameters(
      'a.jpeg', 'a.JPG', 'a.jpe', 'a.jfif', 'a.JFIF', 'a.jif', 'a.jfi',
      'a.pjpeg', 'a.pjp', 'a.mpo', 'a.png', 'a.webp', 'a.WebP', 'a.bmp',
      'a.dib', 'a.tif', 'a.tiff', 'a.gif',
  )
  def test_suffixes(self, name):
    self.assertTrue(sources.is_image(name))
    self.assertFalse(sources.is_image(f'.{name}'))
    self.assertFalse(sources.is_image(f'{name}.txt'))


def text_chunks():
  """(name, chunk) of a PNG, each beyond a limit of Pillow, or broken."""
  long = zlib.compress(bytes(2**21))
  yield 'profile', chunk(b'iCCP', b'icc\0\0' + long)
  yield 'profile_of_no_kind', chunk(b'iCCP', b'icc\0\7')
  yield 'profile_without_end', chunk(b'iCCP', b'icc')
  yield 'ztxt', chunk(b'zTXt', b'note\0\0' + long)
  yield 'ztxt_of_no_kind', chunk(b'zTXt', b'note\0\1')
  yield 'itxt', chunk(b'iTXt', b'note\0\1\0\0\0' + long)
  yield 'checksum', chunk(b'tEXt', b'note\0text', right=False)
  yield 'checksum_of_exif', chunk(b'eXIf', b'II*\0', right=False)
  for kind in (b'gAMA', b'cHRM', b'sRGB', b'pHYs', b'acTL', b'fcTL', b'fdAT'):
    yield f'short_{kind.decode()}', chunk(kind, b'\0')
  yield 'sequence', chunk(b'fcTL', struct.pack('>I', 7) + bytes(22))
  yield 'frame', chunk(
      b'fcTL', struct.pack('>5IHHBB', 0, 99, 99, 9, 9, 1, 1, 0, 0)
  )
  yield 'no_ascii', chunk(b'a\xff\xfeb', b'')


def segment(code, data):
  return struct.pack('>BBH', 0xFF, code, len(data) + 2) + data


class MetadataTest(parameterized.TestCase):
  """It never decides whether a picture is used, nor changes its pixels."""

  @parameterized.named_parameters(*text_chunks())
  def test_png(self, piece):
    levels = pixels(9, 11, 3)
    for encoded in (
        png(levels, 8, piece), png(levels, 8, behind=[piece]),
        png(levels, 8, piece, piece, piece),
    ):
      np.testing.assert_array_equal(decode(encoded), levels)

  def test_png_without_an_end(self):
    levels = pixels(9, 11, 3)
    whole = png(levels, 8, behind=[chunk(b'tEXt', b'note\0' + bytes(99))])
    for length in range(len(whole) - 120, len(whole), 7):
      np.testing.assert_array_equal(decode(whole[:length]), levels)

  @parameterized.parameters(
      (0xE0, b'JFIF'), (0xE0, b'JFIF\0'), (0xE0, b'JFXX\0\x10' + bytes(99)),
      (0xE1, b'Exif\0\0'), (0xE1, b'Exif\0\0II*\0' + b'\xff' * 500),
      (0xE1, b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'),
      (0xE2, b'MPF\0II*\0' + b'\xff' * 99), (0xE2, b'MPF\0'),
      (0xE2, b'ICC_PROFILE\0'), (0xE2, b'ICC_PROFILE\0\1\2x'),
      (0xED, b'Photoshop 3.0\08BIM'), (0xEE, b'Adobe'), (0xFE, b'\xff' * 999),
      (0xE5, b''), (0xEF, b'long'), (0xF3, b'\xff\xda'), (0xC8, b'xx'),
  )
  def test_jpeg(self, code, data):
    plain = file_of(smooth(), 'JPEG')
    expected = decode(plain)
    if data == b'long':
      data = bytes(65_533)
    for place in (2, 20, plain.index(b'\xff\xc0'), plain.index(b'\xff\xda')):
      encoded = plain[:place] + segment(code, data) + plain[place:]
      np.testing.assert_array_equal(decode(encoded), expected)

  @parameterized.parameters(False, True)
  def test_webp(self, lossless):
    image = smooth()
    plain = file_of(image, 'WEBP', lossless=lossless)
    for options in (
        {'exif': b'II*\0' + b'\xff' * 99}, {'icc_profile': bytes(2**21)},
        {'xmp': bytes(2**21)}, {'exif': b'x'},
    ):
      encoded = file_of(image, 'WEBP', lossless=lossless, **options)
      self.assertGreater(len(encoded), len(plain))
      np.testing.assert_array_equal(decode(encoded), decode(plain))

  @parameterized.parameters(
      (b'!\xfe', bytes(99)), (b'!\xff', b'NETSCAPE2.0'), (b'!\xff', b'x'),
      (b'!\x01', b'\0'), (b'!\xf9', b'\1'), (b'!\x77', b'unknown'),
  )
  def test_gif(self, label, data):
    plain = file_of(smooth().quantize(9), 'GIF')
    place = 13 + (3 << (plain[10] & 7) + 1)
    piece = label + bytes((len(data),)) + data + b'\0'
    encoded = plain[:place] + piece + plain[place:]
    np.testing.assert_array_equal(decode(encoded), decode(plain))

  @parameterized.product(
      field=((270, 'text'), (305, 'y'), (700, b'\0' * 99),
             (34675, b'no profile'), (34665, 2**31), (37500, b'maker'),
             (33723, b'x'), (65000, b'private'), (50838, 1)),
      compression=('raw', 'tiff_lzw'),
  )
  def test_tiff(self, field, compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tag, value = field
    tags[tag] = value * 2**19 if value == 'text' else value
    encoded = file_of(
        smooth(), 'TIFF', tiffinfo=tags, compression=compression
    )
    np.testing.assert_array_equal(decode(encoded), np.asarray(smooth()))

  @parameterized.parameters(2, 3, 6, 8)
  def test_orientation_wherever_it_is(self, value):
    turned = {
        2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1],
        6: lambda x: np.rot90(x, -1), 8: lambda x: np.rot90(x, 1),
    }[value]
    exif = Image.Exif()
    exif[ORIENTATION] = value
    data, xmp = exif.tobytes(), XMP % value
    levels = pixels(9, 11, 3)
    image = smooth()
    raw = f'\nexif\n{len(data):8}\n{data.hex()}\n'.encode()
    itxt = PngImagePlugin.PngInfo()
    itxt.add_itxt('XML:com.adobe.xmp', xmp.decode(), zip=True)
    for piece in (
        chunk(b'eXIf', data[6:]), chunk(b'eXIf', data),
        chunk(b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(raw)),
        chunk(b'tEXt', b'Raw profile type exif\0' + raw),
        chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + xmp),
    ):
      np.testing.assert_array_equal(
          decode(png(levels, 8, piece)), turned(levels)
      )
      np.testing.assert_array_equal(
          decode(png(levels, 8, behind=[piece])), turned(levels)
      )
    np.testing.assert_array_equal(
        decode(file_of(image, 'PNG', pnginfo=itxt)), turned(np.asarray(image))
    )
    plain = decode(file_of(image, 'WEBP', lossless=True))
    for options in ({'exif': data}, {'exif': data[6:]}, {'xmp': xmp}):
      encoded = file_of(image, 'WEBP', lossless=True, **options)
      np.testing.assert_array_equal(decode(encoded), turned(plain))
    np.testing.assert_array_equal(
        decode(tiff(levels, (ORIENTATION, value), bits=8)), turned(levels)
    )

  def test_exif_counts_before_xmp(self):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    encoded = file_of(smooth(), 'JPEG', exif=exif, xmp=XMP % 6)
    plain = decode(file_of(smooth(), 'JPEG'))
    np.testing.assert_array_equal(decode(encoded), plain[::-1, ::-1])


class DepthsTest(parameterized.TestCase):
  """Levels of more than eight bits, shifted by those that they have."""

  @parameterized.product(
      bits=(8, 10, 12, 14, 16), channels=(1, 2, 3, 4), interlaced=(False, True)
  )
  def test_words_of_png(self, bits, channels, interlaced):
    levels = pixels(9, 11, channels, high=2**bits)
    levels[0, 0] = 2**bits - 1
    if channels in (2, 4):  # Opaque.
      levels[..., -1] = 2**bits - 1
    encoded = png(levels, 16, interlaced=interlaced)
    colours = levels[..., :3] if channels > 2 else levels[..., [0, 0, 0]]
    np.testing.assert_array_equal(decode(encoded), colours >> bits - 8)

  @parameterized.product(
      bits=(10, 12, 14, 16), channels=(1, 3), order=('<', '>')
  )
  def test_words_of_tiff(self, bits, channels, order):
    levels = pixels(9, 11, channels, high=2**bits)
    levels[0, 0] = 2**bits - 1
    colours = levels if channels > 2 else levels[..., [0, 0, 0]]
    np.testing.assert_array_equal(
        decode(tiff(levels, order=order)), colours >> bits - 8
    )

  @parameterized.parameters('tiff_lzw', 'tiff_adobe_deflate')
  def test_words_of_compressed_tiff(self, compression):
    levels = pixels(9, 11, high=4096).astype(np.uint16)
    encoded = file_of(
        Image.fromarray(levels), 'TIFF', compression=compression
    )
    np.testing.assert_array_equal(decode(encoded), rgb(levels >> 4))

  @parameterized.parameters(1, 3)
  def test_bits_that_a_png_names(self, channels):
    """A dark picture of a camera of 12 bits is as dark as the others."""
    levels = pixels(9, 11, channels, high=300)
    colours = levels if channels > 2 else levels[..., [0, 0, 0]]
    named = lambda bits: chunk(b'sBIT', bytes([bits] * channels))
    for bits, shift in ((12, 4), (14, 6), (16, 8), (10, 2)):
      np.testing.assert_array_equal(
          decode(png(levels, 16, named(bits))), colours >> shift
      )
    # By the standard it speaks of the upper bits.
    levels = levels * 200
    np.testing.assert_array_equal(
        decode(png(levels, 16, named(12))), colours * 200 >> 8
    )
    # What no word has, and what is no number of bits.
    for data in (bytes([99] * channels), b''):
      decode(png(levels, 16, chunk(b'sBIT', data)))

  def test_two_pictures_of_one_machine_are_shifted_alike(self):
    bright, dark = np.full((2, 9, 9, 1), 3000), np.full((9, 9, 1), 1100)
    self.assertEqual(decode(png(bright[0], 16))[0, 0, 0], 3000 >> 4)
    self.assertEqual(decode(png(dark, 16))[0, 0, 0], 1100 >> 4)

  @parameterized.parameters(
      (0.0, 1.0, 0.0, 1.0), (0.2, 0.7, 0.0, 1.0), (-3.0, 5.0, -3.0, 5.0),
      (0.0, 255.0, 0.0, 255.0), (1e3, 7e4, 1e3, 7e4),
  )
  def test_floats(self, low, high, black, white):
    levels = np.random.default_rng(0).uniform(low, high, (9, 11))
    levels[0, 0], levels[0, 1] = low, high
    encoded = file_of(Image.fromarray(levels.astype(np.float32)), 'TIFF')
    expected = (levels - black) / (white - black) * 255
    difference = decode(encoded)[..., 1] - expected
    self.assertLess(np.abs(difference).max(), 0.51)

  def test_floats_that_are_no_numbers(self):
    levels = np.tile(np.float32([np.nan, np.inf, -np.inf, 2, 4]), (9, 2))
    got = decode(file_of(Image.fromarray(levels), 'TIFF'))
    np.testing.assert_array_equal(got[0, :5, 0], [0, 255, 0, 0, 255])
    nothing = np.full((9, 9), np.nan, np.float32)
    self.assertEqual(decode(file_of(Image.fromarray(nothing), 'TIFF')).max(), 0)

  def test_negative_levels(self):
    """Such as Hounsfield's units."""
    levels = np.linspace(-1000, 3000, 120).reshape(10, 12).astype(np.int32)
    got = decode(file_of(Image.fromarray(levels), 'TIFF'))[..., 0]
    expected = (levels + 1000) / 4000 * 255
    self.assertLess(np.abs(got - expected).max(), 0.51)

  @parameterized.parameters(8, 16)
  def test_tiff_whose_zero_is_white(self, bits):
    levels = pixels(9, 11, 1, high=2**bits)
    levels[0, 0] = 2**bits - 1
    got = decode(tiff(levels, bits=bits, photometric=0))
    np.testing.assert_array_equal(
        got, 255 - (levels[..., [0, 0, 0]] >> bits - 8)
    )

  def test_a_profile_is_not_applied(self):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ'))
    image = smooth()
    for kind in ('PNG', 'TIFF'):
      encoded = file_of(image, kind, icc_profile=profile.tobytes())
      np.testing.assert_array_equal(decode(encoded), np.asarray(image))


def over(colours, opacity, background):
  """A picture over a background, by the formula."""
  share = np.asarray(opacity, float)[..., None] / 255
  return colours * share + np.asarray(background) * (1 - share)


class TransparencyTest(parameterized.TestCase):

  def check(self, encoded, colours, opacity, delta=0.51):
    for background in ((255, 255, 255), (0, 0, 0), (10, 200, 30)):
      expected = over(colours, opacity, background)
      got = decode(encoded, background).astype(float)
      self.assertLess(np.abs(got - expected).max(), delta)
    # White is what is taken where nobody says anything.
    np.testing.assert_array_equal(
        decode(encoded), decode(encoded, (255, 255, 255))
    )
    # As older runs had it.
    np.testing.assert_array_equal(decode(encoded, ()), np.asarray(colours))

  @parameterized.parameters('PNG', 'TIFF', 'WEBP')
  def test_of_each_pixel(self, kind):
    levels = pixels(9, 11, 4).astype(np.uint8)
    options = {'lossless': True, 'exact': True} if kind == 'WEBP' else {}
    encoded = file_of(Image.fromarray(levels), kind, **options)
    self.check(encoded, levels[..., :3], levels[..., 3])

  def test_of_grey(self):
    levels = pixels(9, 11, 2).astype(np.uint8)
    encoded = file_of(Image.fromarray(levels, 'LA'), 'PNG')
    self.check(encoded, rgb(levels[..., 0]), levels[..., 1])

  @parameterized.parameters(2, 4)
  def test_of_words(self, channels):
    levels = pixels(9, 11, channels, high=65536)
    colours = levels[..., :3] if channels > 2 else levels[..., [0, 0, 0]]
    # Both of eight bits.
    self.check(png(levels, 16), colours >> 8, levels[..., -1] >> 8)

  @parameterized.parameters(
      ({'transparency': 2}, [255, 255, 0, 255]),
      ({'transparency': bytes([0, 99, 255, 7])}, [0, 99, 255, 7]),
      ({'transparency': bytes([0, 99])}, [0, 99, 255, 255]),
  )
  def test_of_a_palette(self, options, opacities):
    indices = pixels(9, 11, high=4).astype(np.uint8)
    palette = pixels(4, 3)
    image = Image.fromarray(indices, 'P')
    image.putpalette(palette.astype(np.uint8).tobytes())
    encoded = file_of(image, 'PNG', **options)
    self.check(encoded, palette[indices], np.array(opacities)[indices])

  def test_of_a_gif(self):
    indices = pixels(9, 11, high=4).astype(np.uint8)
    palette = pixels(4, 3)
    image = Image.fromarray(indices, 'P')
    image.putpalette(palette.astype(np.uint8).tobytes())
    encoded = file_of(image, 'GIF', transparency=2)
    self.check(encoded, palette[indices], np.where(indices == 2, 0, 255))

  @parameterized.parameters(
      (1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)
  )
  def test_of_a_colour(self, bits, channels):
    levels = pixels(9, 11, channels, high=2**bits)
    levels[0, 0] = 2**bits - 1
    hidden = levels[4, 5]
    piece = chunk(b'tRNS', struct.pack(f'>{channels}H', *hidden))
    seen = (levels != hidden).any(axis=-1)
    colours = levels if channels > 1 else levels[..., [0, 0, 0]]
    colours = colours >> 8 if bits == 16 else colours * 255 // (2**bits - 1)
    self.check(png(levels, bits, piece), colours, np.where(seen, 255, 0))

  def test_nearly_the_colour_is_no_transparency(self):
    """Pillow would compare eight of sixteen bits."""
    levels = np.full((9, 9, 3), 0x1234)
    levels[:, 3:] = 0x1235
    encoded = png(levels, 16, chunk(b'tRNS', struct.pack('>3H', *[0x1234] * 3)))
    got = decode(encoded)
    np.testing.assert_array_equal(got[:, :3], 255)
    np.testing.assert_array_equal(got[:, 3:], 0x12 << 2)

  @parameterized.parameters(b'', b'\0', b'\0\0\0')
  def test_a_colour_that_is_cut_off(self, data):
    levels = pixels(9, 11, 3)
    np.testing.assert_array_equal(
        decode(png(levels, 8, chunk(b'tRNS', data))), levels
    )

  def test_hidden_colours_do_not_count(self):
    levels = pixels(9, 11, 4).astype(np.uint8)
    other = levels.copy()
    levels[2:5, 3:8, 3] = other[2:5, 3:8, 3] = 0
    other[2:5, 3:8, :3] = 255 - other[2:5, 3:8, :3]
    one, two = (file_of(Image.fromarray(x), 'PNG') for x in (levels, other))
    np.testing.assert_array_equal(decode(one), decode(two))

  @parameterized.parameters(0, 77)
  def test_bmp_without_any_opacity(self, opacity):
    """Programs that know of none leave zeros there."""
    levels = pixels(9, 11, 4).astype(np.uint8)
    levels[..., 3] = opacity
    header = struct.pack(
        '<IiiHHIIiiIIIIII', 56, 11, -9, 1, 32, 3, 9 * 11 * 4, 0, 0, 0, 0,
        0xFF0000, 0xFF00, 0xFF, 0xFF000000,
    )
    rows = levels[..., [2, 1, 0, 3]].tobytes()
    begin = struct.pack('<2sIII', b'BM', 70 + len(rows), 0, 70)
    encoded = begin + header + rows
    opacities = np.full((9, 11), opacity or 255)
    expected = over(levels[..., :3], opacities, (255,) * 3)
    self.assertLess(np.abs(decode(encoded) - expected).max(), 0.51)


class LimitsTest(parameterized.TestCase):

  @parameterized.product(
      pixels=((400, 1), (399, 2), (101, 2), (99, 4), (24, 8)),
      options=({}, {'progressive': True}),
      mode=('RGB', 'L', 'CMYK'),
  )
  def test_a_large_jpeg_is_decoded_smaller(self, pixels, options, mode):
    """As libjpeg does it, which Pillow calls `draft`."""
    most, reduction = pixels
    image = smooth(400, 200).convert(mode)
    encoded = file_of(image, 'JPEG', quality=95, **options)
    with (
        mock.patch.object(limits, 'MAX_PIXELS', most * 200),
        mock.patch.object(limits, 'MAX_JPEG_PIXELS', 400 * 200),
    ):
      got = decode(encoded)
    small = Image.open(io.BytesIO(encoded))
    small.draft(mode, (200 // reduction, 400 // reduction))
    self.assertEqual(got.shape, (400 // reduction, 200 // reduction, 3))
    np.testing.assert_array_equal(got, np.asarray(small.convert('RGB')))

  def test_too_large_a_jpeg(self):
    encoded = file_of(smooth(400, 200), 'JPEG')
    with (
        mock.patch.object(limits, 'MAX_PIXELS', 10_000),
        mock.patch.object(limits, 'MAX_JPEG_PIXELS', 79_999),
        self.assertRaisesRegex(ImageError, r'200 x 400 .* at most 79,999 .*'
                               r'--image_memory=\d+ allows it'),
    ):
      decode(encoded)

  @parameterized.parameters(
      ({}, 1), ({'progressive': True}, 2), ({'subsampling': 0}, 1),
  )
  def test_memory_of_a_jpeg(self, options, reduction):
    """Of a progressive one all coefficients are in memory, and not smaller."""
    image = smooth(400, 400)
    encoded = file_of(image, 'JPEG', **options)
    # Eight bytes a pixel in the conversion; three of coefficients and four.
    for memory, expected in ((9, 1), (6, reduction if reduction > 1 else 2)):
      wanted = memory * 400**2 + 2 * len(encoded) + limits._PROCESS
      with mock.patch.object(limits, 'MEMORY', wanted):
        self.assertEqual(decode(encoded).shape[0], 400 // expected)
    with (
        mock.patch.object(limits, 'MEMORY', limits._PROCESS + 2**10),
        self.assertRaisesRegex(ImageError, 'may take .* MiB, expected at most '
                               '0; --image_memory=65 allows it'),
    ):
      decode(encoded)

  @parameterized.parameters('PNG', 'WEBP', 'GIF', 'TIFF', 'BMP')
  def test_pixels(self, kind):
    encoded = file_of(smooth(100, 90), kind)
    with mock.patch.object(limits, 'MAX_PIXELS', 9_000):
      self.assertEqual(decode(encoded).shape, (100, 90, 3))
    with (
        mock.patch.object(limits, 'MAX_PIXELS', 8_999),
        # Before there is any memory for it.
        mock.patch.object(ImageFile.ImageFile, '__init__') as opened,
        self.assertRaisesRegex(
            ImageError, '90 x 100 pixels, expected at most 8,999 in all; '
            r'--image_memory=\d+ allows it',
        ),
    ):
      decode(encoded)
    opened.assert_not_called()

  @parameterized.parameters(
      ('WEBP', {'lossless': True}), ('TIFF', {'compression': 'tiff_lzw'})
  )
  def test_memory(self, kind, options):
    encoded = file_of(smooth(400, 400), kind, **options)
    with (
        mock.patch.object(limits, 'MEMORY', limits._PROCESS + 2**20),
        self.assertRaisesRegex(
            ImageError, 'may take .* MiB, expected at most 1; --image_memory=6'
        ),
    ):
      decode(encoded)

  @parameterized.parameters('webp', 'jpeg', 'tiff')
  def test_the_memory_that_a_message_names(self, kind):
    """For all limits at once; the sides are forged, nothing is decoded."""
    if kind == 'webp':
      encoded = file_of(smooth(), 'WEBP')
      place = encoded.index(b'\x9d\x01\x2a') + 3
      old, new = encoded[place : place + 4], struct.pack('<HH', 5000, 5000)
    elif kind == 'jpeg':
      encoded = file_of(smooth(), 'JPEG', progressive=True, subsampling=0)
      old, new = struct.pack('>HH', 40, 48), struct.pack('>HH', 9000, 9000)
    else:
      encoded = tiff(pixels(40, 48, 4, high=2**16).astype(np.uint16))
      entry = lambda tag, value: struct.pack('<HHIH', tag, 3, 1, value)
      for tag in (257, 278):
        encoded = encoded.replace(entry(tag, 40), entry(tag, 3000))
      old, new = entry(256, 48), entry(256, 3000)
    forged = encoded.replace(old, new, 1)
    self.addCleanup(limits.set_memory, limits.DEFAULT_MEMORY)
    with mock.patch.object(limits, 'DEFAULT_MEMORY', 1):
      limits.set_memory(80)
      with self.assertRaisesRegex(ImageError, 'expected at most') as raised:
        containers.take_apart(forged, 'x')
      advised = re.search(r'--image_memory=(\d+)', str(raised.exception))[1]
      limits.set_memory(int(advised))
      containers.take_apart(forged, 'x')
      limits.set_memory(int(advised) - 1)
      with self.assertRaisesRegex(ImageError, rf'image_memory={advised} allow'):
        containers.take_apart(forged, 'x')

  def test_tiles_that_would_take_all_memory(self):
    fields = (322, 65535), (323, 65535), (324, 8), (325, 1)
    with self.assertRaisesRegex(ImageError, 'may take .* MiB, expected'):
      decode(tiff(pixels(9, 9, 3), *fields, bits=8))

  def test_strips_that_are_the_file_many_times(self):
    levels = pixels(64, 9, 3).astype(np.uint8)
    encoded = file_of(
        Image.fromarray(levels), 'TIFF', compression='tiff_lzw',
        tiffinfo={278: 1},
    )
    kind, size = next(
        pair for pair in ((3, 'H'), (4, 'I'))
        if struct.pack('<HHI', 279, pair[0], 64) in encoded
    )
    place = encoded.index(struct.pack('<HHI', 279, kind, 64))
    start = struct.unpack('<I', encoded[place + 8 : place + 12])[0]
    forged = bytearray(encoded)
    lengths = struct.pack(f'<64{size}', *[len(encoded)] * 64)
    forged[start : start + len(lengths)] = lengths
    np.testing.assert_array_equal(decode(encoded), levels)
    with self.assertRaisesRegex(ImageError, 'headers are broken'):
      decode(bytes(forged))

  def test_runs_of_a_bmp(self):
    from benchmarks.fuzzing import images

    encoded = images.bmp_of_runs()
    self.assertEqual(decode(encoded).shape, (16, 16, 3))
    large = bytearray(encoded)
    large[18:26] = struct.pack('<ii', 4000, 4000)
    with self.assertRaisesRegex(ImageError, 'run lengths, expected at most'):
      decode(bytes(large))

  def test_blocks_of_a_gif(self):
    plain = file_of(smooth().quantize(9), 'GIF')
    place = 13 + (3 << (plain[10] & 7) + 1)
    with self.assertRaisesRegex(ImageError, 'blocks before its first picture'):
      decode(plain[:place] + b'!\xfe' + b'\1a' * 2**21 + b'\0' + plain[place:])

  def test_the_memory_can_be_raised(self):
    self.addCleanup(limits.set_memory, limits.DEFAULT_MEMORY)
    self.assertEqual(limits.MAX_PIXELS, 2**26)
    self.assertEqual(limits.MAX_BYTES, 2**27)
    limits.set_memory(4096)
    self.assertEqual(limits.MAX_PIXELS, 2**28)
    self.assertEqual(limits.MAX_BYTES, 2**29)
    limits.check_pixels(16384, 16384, 'x')
    with self.assertRaisesRegex(DataError, 'image_memory is 5: expected'):
      limits.set_memory(5)

  def test_the_flag_that_a_message_names(self):
    """With it the same command uses the picture."""
    folder = pathlib.Path(self.create_tempdir())
    small = file_of(smooth(), 'PNG')
    # 67.4 million pixels of one level, in some kilobytes.
    rows = zlib.compress(bytes(1101) * 7663)
    header = struct.pack('>IIBBBBB', 8800, 7663, 1, 0, 0, 0, 0)
    large = b''.join((
        b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', header), chunk(b'IDAT', rows),
        chunk(b'IEND', b''),
    ))
    for name in 'ab':
      (folder / 'in' / name).mkdir(parents=True)
      for number in range(2):
        (folder / 'in' / name / f'{number}.png').write_bytes(small)
    (folder / 'in' / 'a' / 'large.png').write_bytes(large)

    def prepare(*flags):
      output = folder / f'out{len(flags)}'
      subprocess.run(
          [sys.executable, '-m', 'input_pipeline.prepare', '--eval_fraction=0',
           f'--source={folder / "in"}', f'--output={output}', '--size=16',
           *flags],
          cwd=ROOT, check=True, capture_output=True,
      )
      return (output / 'rejected.txt').read_text()

    refused = prepare()
    self.assertRegex(refused, 'large.png.* --image_memory=1029 allows it')
    self.assertEqual(prepare('--image_memory=1029'), '')


if __name__ == '__main__':
  absltest.main()
