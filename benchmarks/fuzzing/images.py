"""Fuzzing of what reads images: mutated JPEG and PNG files, through decode.

The seeds are made by code, each kind of file of the two formats, and are the
same on every machine with the same libraries.
"""

import io
import pathlib
import random
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.fuzzing import mutations
from benchmarks.fuzzing.mutations import png_chunk
from input_pipeline import preprocessing
from input_pipeline.errors import ImageError

# Segments, chunks and markers of the two formats.
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
  """A file becomes a square, or is refused by name."""

  refusals = (ImageError,)

  def __init__(self, folder: pathlib.Path):
    del folder
    self._seeds = seeds()

  def make(self, rng: random.Random) -> bytes:
    chosen = rng.choice(self._seeds)
    if rng.random() < 0.03:
      chosen = mutations.resize_header(chosen, rng)
    if chosen.startswith(b'\x89PNG') and rng.random() < 0.3:
      chosen = mutations.repacked(chosen, rng)
      if rng.random() < 0.5:
        return chosen
    changed = mutations.mutate(chosen, rng, self._seeds, WORDS)
    if changed.startswith(b'\x89PNG') and rng.random() < 0.7:
      changed = mutations.with_checksums(changed)
    return changed

  def read(self, made: bytes) -> str:
    square = preprocessing.to_square(made, 'photo.jpg')
    assert square.shape == (256, 256, 3), square.shape
    return 'JPEG' if made.startswith(b'\xff\xd8') else 'PNG'

  def save(self, made: bytes, path: pathlib.Path) -> None:
    path.write_bytes(made)


def seeds() -> list[bytes]:
  """The files."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (5, 6, 4), np.uint8)
  smooth = Image.fromarray(small, 'RGBA').resize((37, 29), Image.BICUBIC)
  rgb = smooth.convert('RGB')
  return [*_jpegs(rgb), *_pngs(smooth, rgb)]


def _file(image, kind, **options):
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
      yield _file(image, 'JPEG', progressive=progressive, quality=80)
  for subsampling in ('4:4:4', '4:2:2'):
    yield _file(rgb, 'JPEG', subsampling=subsampling, optimize=True)
  yield _file(rgb, 'JPEG', restart_marker_rows=1)
  yield _file(rgb, 'JPEG', exif=exif, icc_profile=bytes(200), comment=b'hello')
  yield _file(
      rgb, 'JPEG', progressive=True, xmp=b'<x tiff:Orientation="6"></x>'
  )
  yield _file(rgb, 'MPO', save_all=True, append_images=[rgb, rgb])


def _pngs(rgba, rgb):
  exif = Image.Exif()
  exif[0x0112] = 8
  text = PngImagePlugin.PngInfo()
  text.add_text('note', 'compressed ' * 50, zip=True)
  text.add_itxt('other', 'text', zip=True)
  palette = rgb.quantize(16)
  for image in (rgba, rgb, rgb.convert('L'), rgba.convert('LA'), palette,
                rgb.convert('1')):
    yield _file(image, 'PNG')
  yield _file(palette, 'PNG', transparency=3, bits=4)
  yield _file(rgb, 'PNG', exif=exif, pnginfo=text, icc_profile=bytes(200))
  yield _file(rgb, 'PNG', save_all=True, append_images=[rgb, rgb], loop=1)
  for depth, channels in ((16, 1), (16, 2), (16, 3), (16, 4), (8, 3), (8, 1)):
    for interlaced in (False, True):
      yield _png(np.asarray(rgba), depth, channels, interlaced)


def _png(pixels, depth, channels, interlaced):
  """What Pillow cannot write: 16 bits of colours, and interlaced files."""
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
