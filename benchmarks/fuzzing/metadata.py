"""Intact images with arbitrary metadata.

Each must be accepted, with the same pixels as without metadata, apart from the
orientation, which the metadata may set to any valid one.
"""

import io
import pathlib
import random
import struct
import zlib

import numpy as np
from PIL import Image

from benchmarks.fuzzing import images, mutations
from benchmarks.fuzzing.mutations import png_chunk
from benchmarks.fuzzing.worker import Finding
from input_pipeline.images import decoding

# EXIF and XMP are chosen more often than others.
_JPEG_SEGMENTS = (*[0xE1] * 9, *range(0xE2, 0xEE), 0xEF, 0xFE)
_PNG_CHUNKS = (
    *[b'eXIf'] * 5, b'iCCP', b'zTXt', b'iTXt', b'tEXt', b'pHYs', b'gAMA',
    b'cHRM', b'sRGB', b'cICP', b'tIME', b'bKGD', b'hIST', b'sPLT', b'acTL',
    b'fcTL', b'fdAT', b'oFFs', b'pCAL', b'sCAL', b'dSIG', b'vpAg', b'caBX',
    b'noTe',
)
# Fields for descriptions, GPS, XMP, Photoshop, EXIF, profiles, maker's notes,
# and private use.
_TIFF_FIELDS = (
    254, 269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 330, 700,
    33432, 33550, 33723, 34377, 34665, 34675, 34853, 37500, 37510, 42112, 48129,
    50341, 50838, 50839, 65000,
)
_ORIENTATION = 274


class Metadata:
  """Checks that images keep their pixels, whatever their metadata."""

  refusals = ()

  def __init__(self, folder: pathlib.Path):
    del folder
    rgba, rgb = images.picture()
    grey = rgb.convert('L')
    save = images.file_of
    self._writers = {
        'JPEG': _jpeg, 'PNG': _png, 'WebP': _webp, 'GIF': _gif, 'TIFF': _tiff,
        'BMP': _bmp,
    }
    self._seeds = {
        'JPEG': [
            save(image, 'JPEG', progressive=progressive, quality=80)
            for image in (rgb, grey, rgb.convert('CMYK'))
            for progressive in (False, True)
        ],
        'PNG': [
            save(image, 'PNG')
            for image in (rgb, rgba, grey, rgba.convert('LA'), rgb.quantize(9))
        ],
        'WebP': [
            save(image, 'WEBP', lossless=lossless)
            for image in (rgb, rgba) for lossless in (False, True)
        ],
        'GIF': [save(image, 'GIF') for image in (rgb.quantize(9), grey)],
        'TIFF': [b'<', b'>'],
        'BMP': [save(image, 'BMP') for image in (rgb, grey, rgb.quantize(9))],
    }
    self._pixels = {
        (kind, seed): _as_shown(seed) if kind != 'TIFF' else np.asarray(rgb)
        for kind, seeds in self._seeds.items() for seed in seeds
    }
    self._samples = _samples()

  def make(self, rng: random.Random) -> tuple[str, bytes, bytes]:
    kind = rng.choice(list(self._seeds))
    seed = rng.choice(self._seeds[kind])
    pieces = [self._piece(rng) for _ in range(rng.choice((1, 1, 2, 5, 20)))]
    return kind, seed, self._writers[kind](seed, pieces, rng)

  def _piece(self, rng):
    """Creates metadata: a mutated real piece, or random bytes."""
    if rng.random() < 0.15:
      return rng.randbytes(rng.choice((0, 1, 2, 4, 9, 32, 500, 40_000)))
    sample = rng.choice(self._samples)
    if rng.random() < 0.15:
      return sample
    words = (b'Exif\0\0', b'II*\0', b'MM\0*', b'\0', b'tiff:Orientation="6"')
    return mutations.mutate(sample, rng, self._samples, words)

  def read(self, made: tuple[str, bytes, bytes]) -> str:
    kind, seed, file = made
    got = np.asarray(decoding.decode(file, 'photo.jpg'))
    wanted = self._pixels[kind, seed]
    for number, turned in enumerate(_turns(wanted)):
      if np.array_equal(got, turned):
        return kind + (', turned' if number else '')
    raise Finding(f'{kind}: its pixels are others')

  def save(self, made: tuple[str, bytes, bytes], path: pathlib.Path) -> None:
    path.write_bytes(made[2])


def _as_shown(file):
  """Pixels as decoded by Pillow on white, [height, width, 3] uint8."""
  image = Image.open(io.BytesIO(file))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    # By the formula, since Pillow's own function rounds 16 bits differently.
    opacity = np.asarray(image)[..., 3:] / 255
    colours = np.asarray(image)[..., :3]
    return np.rint(colours * opacity + 255 * (1 - opacity)).astype(np.uint8)
  return np.asarray(image.convert('RGB'))


def _turns(pixels):
  """The eight orientations of EXIF, the first unchanged."""
  for other in (pixels, pixels.transpose(1, 0, 2)):
    yield from (other, other[::-1], other[:, ::-1], other[::-1, ::-1])


def _samples():
  """Metadata of each kind, as written by programs."""
  exif = Image.Exif()
  exif[_ORIENTATION], exif[0x010F] = 6, 'maker' * 9
  exif.get_ifd(0x8769)[0x927C] = bytes(range(200))
  exif.get_ifd(0x8825)[1] = 'N'
  data = exif.tobytes()
  xmp = b'<x:xmpmeta tiff:Orientation="8"></x:xmpmeta>'
  text = b'Comment\0\0' + zlib.compress(b'words ' * 9000)
  return [
      data, data[6:], b'http://ns.adobe.com/xap/1.0/\0' + xmp,
      b'XML:com.adobe.xmp\0\0\0\0\0' + xmp, text, b'Comment\0text',
      b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(xmp * 50_000),
      b'Raw profile type exif\0\0' + zlib.compress(
          f'\nexif\n{len(data):8}\n{data.hex()}\n'.encode()
      ),
      b'ICC_PROFILE\0\1\1' + bytes(range(256)),
      b'icc\0\0' + zlib.compress(bytes(2**21)), b'MPF\0MM\0*' + bytes(40),
      b'JFIF\0\1', b'FPXR\0', b'Photoshop 3.0\0' + b'8BIM\4\4\0\0\0\0\0\4abcd',
      b'NETSCAPE2.0\1\0\0', struct.pack('>II', 2, 0),
      struct.pack('>5IHHBB', 0, 37, 29, 0, 0, 1, 10, 0, 0),
  ]


def _jpeg(seed, pieces, rng):
  starts, place = [], 2
  while seed[place + 1] != 0xDA:
    starts.append(place)
    place += 2 + int.from_bytes(seed[place + 2 : place + 4], 'big')
  for piece in pieces:
    piece = piece[:65_533]
    code = rng.choice(_JPEG_SEGMENTS)
    segment = struct.pack('>BBH', 0xFF, code, len(piece) + 2) + piece
    # The first position is the same for all; others come after it.
    start = starts[0] if rng.random() < 0.5 else rng.choice(starts)
    seed = seed[:start] + segment + seed[start:]
    starts = [
        other + len(segment) if other > start else other for other in starts
    ]
  return seed + (pieces[0] if rng.random() < 0.3 else b'')


def _png(seed, pieces, rng):
  rows = seed.index(b'IDAT') - 4
  for piece in pieces:
    chunk = png_chunk(rng.choice(_PNG_CHUNKS), piece)
    if rng.random() < 0.1:  # Breaks the checksum.
      chunk = chunk[:-1] + bytes((chunk[-1] ^ 1,))
    place = rng.choice((33, rows, len(seed) - 12))
    seed = seed[:place] + chunk + seed[place:]
    rows += len(chunk) if place <= rows else 0
  ending = rng.random()
  if ending < 0.1:  # Cut off after the pixels.
    return seed[: len(seed) - rng.randint(1, 12)]
  return seed + (pieces[0] if ending < 0.3 else b'')


def _webp(seed, pieces, rng):
  image = Image.open(io.BytesIO(seed))
  alpha = 0x10 if image.mode == 'RGBA' else 0
  names = [rng.choice((b'ICCP', b'EXIF', b'XMP ', b'noTe')) for _ in pieces]
  flags = alpha | sum({
      {b'ICCP': 0x20, b'EXIF': 8, b'XMP ': 4}.get(name, 0) for name in names
  })
  chunk = lambda name, data: (
      name + struct.pack('<I', len(data)) + data + bytes(len(data) % 2)
  )
  sides = b''.join((side - 1).to_bytes(3, 'little') for side in image.size)
  chunks = [chunk(b'VP8X', bytes((flags, 0, 0, 0)) + sides)]
  inside = seed[12:]
  if inside.startswith(b'VP8X'):
    inside = inside[18:]
  others = [chunk(*pair) for pair in zip(names, pieces)]
  before = rng.randint(0, len(others))
  chunks += [*others[:before], inside, *others[before:]]
  data = b'WEBP' + b''.join(chunks)
  return b'RIFF' + struct.pack('<I', len(data)) + data


def _gif(seed, pieces, rng):
  start = 13 + (3 << (seed[10] & 7) + 1 if seed[10] & 0x80 else 0)
  for piece in pieces:
    blocks = b''.join(
        bytes((len(part),)) + part
        for part in (
            piece[k : k + 255] for k in range(0, len(piece), 255)
        )
    )
    label = rng.choice((b'\xfe', b'\xff', b'\x01', b'\x99'))
    place = rng.choice((start, len(seed) - 1))
    seed = seed[:place] + b'!' + label + blocks + b'\0' + seed[place:]
  # As written by tools, also in files of the older version.
  return rng.choice((b'GIF87a', b'GIF89a')) + seed[6:]


def _tiff(seed, pieces, rng):
  _, rgb = images.picture()
  fields = {}
  for piece in pieces:
    tag = rng.choice(_TIFF_FIELDS)
    count = rng.choice((0, 1, 2, len(piece), 2**16, 2**31, 2**32 - 1))
    where = piece[:4].ljust(4, b'\0')
    fields[tag] = (tag, rng.randrange(20), count, where)
  if rng.random() < 0.5:
    order = seed.decode()
    value = struct.pack(order + 'HH', rng.choice((0, 1, 3, 6, 9, 65535)), 0)
    kind = rng.choice((2, 3, 3, 3, 12))
    fields[_ORIENTATION] = (_ORIENTATION, kind, 1, value)
  made = images.tiff(
      np.asarray(rgb), seed.decode(), fields=tuple(fields.values())
  )
  return made + b''.join(pieces)


def _bmp(seed, pieces, rng):
  changed = bytearray(seed)
  # File size, reserved bytes, and pixels per metre.
  for start, end in ((2, 6), (6, 10), (38, 46)):
    if rng.random() < 0.5:
      changed[start:end] = (pieces[0] + bytes(8))[: end - start]
  return bytes(changed) + pieces[-1]
