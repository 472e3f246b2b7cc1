"""Fuzzing of image decoding with mutated files of each format.

The seeds are generated, one for each kind of file, and are the same on every
machine with the same libraries.
"""

import io
import pathlib
import random
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from benchmarks.fuzzing import mutations
from benchmarks.fuzzing.mutations import png_chunk
from input_pipeline import preprocessing
from input_pipeline.errors import ImageError
from input_pipeline.images import containers

# Parts of segments, chunks and markers of JPEG and PNG.
WORDS = (
    b'\xff\xd8', b'\xff\xd9', b'\xff\xda', b'\xff\xc0', b'\xff\xc2',
    b'\xff\xc4', b'\xff\xdb', b'\xff\xdd', b'\xff\xd0', b'\xff\xff', b'\xff\0',
    b'\xff\xe1', b'\xff\xe2MPF\0', b'\xff\xee\0\x0eAdobe', b'Exif\0\0',
    b'MM\0*', b'II*\0', b'IHDR', b'IDAT', b'IEND', b'PLTE', b'tRNS', b'eXIf',
    b'iCCP', b'zTXt', b'iTXt', b'tEXt', b'acTL', b'fcTL', b'fdAT', b'gAMA',
    b'tiff:Orientation="6"', b'ICC_PROFILE\0', b'Photoshop 3.0\0008BIM',
)
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
          (0, 1, 2, 2), (1, 0, 2, 1))


class Images:
  """Decodes files to squares; each is accepted or refused by name."""

  refusals = (ImageError,)
  words = WORDS

  def __init__(self, folder: pathlib.Path):
    del folder
    self._seeds = self.seeds()

  def seeds(self) -> list[bytes]:
    """Returns the files to mutate."""
    return seeds()

  def make(self, rng: random.Random) -> bytes:
    chosen = rng.choice(self._seeds)
    if rng.random() < 0.03:
      chosen = mutations.resize_header(chosen, rng)
    if chosen.startswith(b'\x89PNG') and rng.random() < 0.3:
      chosen = mutations.repacked(chosen, rng)
      if rng.random() < 0.5:
        return chosen
    changed = mutations.mutate(chosen, rng, self._seeds, self.words)
    if changed.startswith(b'\x89PNG') and rng.random() < 0.7:
      changed = mutations.with_checksums(changed)
    return changed

  def read(self, made: bytes) -> str:
    square = preprocessing.to_square(made, 'photo.jpg')
    assert square.shape == (256, 256, 3), square.shape
    return containers.take_apart(made, '').kind

  def save(self, made: bytes, path: pathlib.Path) -> None:
    path.write_bytes(made)


class WebP(Images):
  """WebP files."""

  words = (
      b'RIFF', b'WEBP', b'VP8 ', b'VP8L', b'VP8X', b'ALPH', b'ANIM', b'ANMF',
      b'ICCP', b'EXIF', b'XMP ', b'\x9d\x01\x2a', b'\x2f',
  )

  def seeds(self):
    rgba, rgb = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(file_of(image, 'WEBP', lossless=lossless, quality=80)
          for image in (rgba, rgb) for lossless in (False, True)),
        file_of(rgb, 'WEBP', exif=exif, icc_profile=bytes(99), xmp=b'<x/>'),
        file_of(rgba, 'WEBP', save_all=True, append_images=[rgb, rgba]),
        file_of(rgb, 'WEBP', save_all=True, append_images=[rgba], quality=60),
    ]


class GIF(Images):
  """GIF files."""

  words = (
      b'GIF87a', b'GIF89a', b'!\xf9\x04', b'!\xfe', b'!\xff\x0bNETSCAPE2.0',
      b'!\xff\x0bXMP DataXMP', b'!\x01', b',', b';', b'\0',
  )

  def seeds(self):
    rgba, rgb = picture()
    palette = rgb.quantize(16)
    return [
        *(file_of(image, 'GIF', interlace=interlace)
          for image in (palette, rgb.convert('L'), rgb.convert('1'), rgba)
          for interlace in (False, True)),
        file_of(palette, 'GIF', transparency=3, comment=b'hello'),
        file_of(
            palette, 'GIF', save_all=True, append_images=[rgba, rgb], loop=0,
            disposal=2,
        ),
    ]


class TIFF(Images):
  """TIFF files."""

  words = (
      b'II*\0', b'MM\0*', b'II+\0', *(
          struct.pack(order + 'HHII', tag, kind, 1, value)
          for order in '<>'
          for tag, kind, value in (
              (256, 4, 8000), (257, 4, 8000), (258, 3, 16), (259, 3, 5),
              (262, 3, 6), (273, 4, 8), (277, 3, 4), (278, 4, 1),
              (279, 4, 2**31), (284, 3, 2), (317, 3, 2), (322, 4, 65535),
              (323, 4, 65535), (324, 4, 8), (338, 3, 1), (339, 3, 3),
          )
      ),
  )

  def seeds(self):
    rgba, rgb = picture()
    grey = rgb.convert('L')
    words = np.asarray(grey).astype(np.uint16) * 257
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[274] = 'description', 6
    files = [
        file_of(image, 'TIFF', compression=compression)
        for image in (rgb, rgba, grey, rgb.quantize(16))
        for compression in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits')
    ]
    files += [
        file_of(rgb, 'TIFF', compression='jpeg'),
        *(file_of(rgb.convert('1'), 'TIFF', compression=f'group{n}')
          for n in (3, 4)),
        file_of(rgb.convert('CMYK'), 'TIFF'),
        file_of(rgb.convert('YCbCr'), 'TIFF'),
        file_of(Image.fromarray(words), 'TIFF'),
        file_of(Image.fromarray(words), 'TIFF', compression='tiff_lzw'),
        file_of(Image.fromarray(words.astype(np.float32)), 'TIFF'),
        file_of(Image.fromarray(words.astype(np.int32)), 'TIFF'),
        file_of(rgb, 'TIFF', big_tiff=True, tiffinfo=tags),
        file_of(rgb, 'TIFF', save_all=True, append_images=[grey, rgba]),
    ]
    pixels = np.asarray(rgb)
    files += [
        tiff(pixels, order, deep=deep) for order in '<>'
        for deep in (False, True)
    ]
    return files


class BMP(Images):
  """BMP files."""

  words = (
      b'BM', *(struct.pack('<I', size) for size in (12, 40, 64, 108, 124)),
      *(struct.pack('<HHI', 1, bits, compression)
        for bits in (1, 4, 8, 16, 24, 32) for compression in (0, 1, 2, 3)),
      b'\0\0', b'\0\1', b'\0\2\xff\xff',
  )

  def seeds(self):
    rgba, rgb = picture()
    return [
        *(file_of(image, 'BMP') for image in (
            rgb, rgba, rgb.convert('L'), rgb.convert('1'), rgb.quantize(16),
        )),
        bmp_of_runs(),
    ]


def picture() -> tuple[Image.Image, Image.Image]:
  """The image of all seeds, with and without transparency."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (5, 6, 4), np.uint8)
  smooth = Image.fromarray(small, 'RGBA').resize((37, 29), Image.BICUBIC)
  return smooth, smooth.convert('RGB')


def seeds() -> list[bytes]:
  """Returns JPEG and PNG files."""
  rgba, rgb = picture()
  return [*_jpegs(rgb), *_pngs(rgba, rgb)]


def tiff(
    pixels: np.ndarray, order: str = '<', *, deep: bool = False,
    fields: Sequence[tuple[int, int, int, bytes]] = (),
) -> bytes:
  """Writes an uncompressed TIFF file of kinds that Pillow cannot write.

  Args:
    pixels: [height, width, 3] uint8.
    order: byte order, '<' or '>'.
    deep: whether to use 16-bit words.
    fields: additional fields (tag, type, count, four bytes).
  """
  height, width, _ = pixels.shape
  kind = np.dtype(f'{order}u2') if deep else np.uint8
  rows = (pixels.astype(kind) * (257 if deep else 1)).tobytes()
  one = lambda tag, value: (tag, 4, 1, struct.pack(order + 'I', value))
  bits = 8 + len(rows)
  fields = sorted((
      one(256, width), one(257, height),
      (258, 3, 3, struct.pack(order + 'I', bits)), one(259, 1), one(262, 2),
      one(273, 8), one(277, 3), one(278, height), one(279, len(rows)), *fields,
  ))
  depth = 16 if deep else 8
  return b''.join((
      b'II*\0' if order == '<' else b'MM\0*',
      struct.pack(order + 'I', bits + 6),
      rows,
      struct.pack(order + '3H', depth, depth, depth),
      struct.pack(order + 'H', len(fields)),
      *(struct.pack(order + 'HHI', *field[:3]) + field[3] for field in fields),
      bytes(4),
  ))


def bmp_of_runs() -> bytes:
  """Writes a BMP file of 16 x 16 pixels, stored as run lengths."""
  palette = b''.join(bytes((k, 255 - k, k // 2, 0)) for k in range(256))
  rows = b''.join(bytes((10, k, 6, 255 - k, 0, 0)) for k in range(16)) + b'\0\1'
  header = struct.pack(
      '<IiiHHIIiiII', 40, 16, 16, 1, 8, 1, len(rows), 0, 0, 0, 0
  )
  start = 14 + len(header) + len(palette)
  return struct.pack('<2sIII', b'BM', start + len(rows), 0, start) + (
      header + palette + rows
  )


def file_of(image: Image.Image, kind: str, **options) -> bytes:
  """Encodes a file with Pillow."""
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _jpegs(rgb):
  exif = Image.Exif()
  exif[0x0112] = 6
  exif[0x010F] = 'maker' * 9
  cmyk, grey = rgb.convert('CMYK'), rgb.convert('L')
  for image in (rgb, grey, cmyk):
    for progressive in (False, True):
      yield file_of(image, 'JPEG', progressive=progressive, quality=80)
  for subsampling in ('4:4:4', '4:2:2'):
    yield file_of(rgb, 'JPEG', subsampling=subsampling, optimize=True)
  yield file_of(rgb, 'JPEG', restart_marker_rows=1)
  yield file_of(
      rgb, 'JPEG', exif=exif, icc_profile=bytes(200), comment=b'hello'
  )
  yield file_of(
      rgb, 'JPEG', progressive=True, xmp=b'<x tiff:Orientation="6"></x>'
  )
  yield file_of(rgb, 'MPO', save_all=True, append_images=[rgb, rgb])


def _pngs(rgba, rgb):
  exif = Image.Exif()
  exif[0x0112] = 8
  text = PngImagePlugin.PngInfo()
  text.add_text('note', 'compressed ' * 50, zip=True)
  text.add_itxt('other', 'text', zip=True)
  palette = rgb.quantize(16)
  for image in (rgba, rgb, rgb.convert('L'), rgba.convert('LA'), palette,
                rgb.convert('1')):
    yield file_of(image, 'PNG')
  yield file_of(palette, 'PNG', transparency=3, bits=4)
  yield file_of(rgb, 'PNG', exif=exif, pnginfo=text, icc_profile=bytes(200))
  yield file_of(rgb, 'PNG', save_all=True, append_images=[rgb, rgb], loop=1)
  for depth, channels in ((16, 1), (16, 2), (16, 3), (16, 4), (8, 3), (8, 1)):
    for interlaced in (False, True):
      yield _png(np.asarray(rgba), depth, channels, interlaced)


def _png(pixels, depth, channels, interlaced):
  """Encodes files that Pillow cannot: 16-bit colours, and interlaced ones."""
  pixels = pixels[..., :channels]
  if depth == 16:
    pixels = (pixels.astype(np.uint16) * 257).astype('>u2')
  kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  height, width = pixels.shape[:2]
  header = struct.pack(
      '>IIBBBBB', width, height, depth, kind, 0, 0, interlaced
  )
  passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
  rows = [
      b'\0' + row.tobytes()
      for top, left, down, across in passes
      for row in pixels[top::down, left::across]
      if row.size
  ]
  return (
      b'\x89PNG\r\n\x1a\n'
      + png_chunk(b'IHDR', header)
      + png_chunk(b'IDAT', zlib.compress(b''.join(rows)))
      + png_chunk(b'IEND', b'')
  )
