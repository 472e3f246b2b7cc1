"""Parses image files: the data that their pixels need, and their orientation.

Decoding libraries also read metadata, which can take them seconds or make them
refuse an image. So they receive files without metadata: this module walks
through each format, drops what the pixels do not need, and checks limits of
memory and time before anything is decoded.
"""

import contextlib
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import ImageError
from input_pipeline.images import limits, tiff
from input_pipeline.images import orientation as orientation_lib

# Most passes over a progressive JPEG with this many bytes of coefficients;
# encoders make 10 to 20. A file of a megabyte can have thousands of passes over
# the largest allowed image.
MAX_SCANS = 100
_SCANNED = 2**29
# Most segments before a JPEG's pixels; 16 MB of metadata take 256. Each costs a
# microsecond.
MAX_SEGMENTS = 100_000
MAX_CHUNKS = 100_000
# Most blocks, such as comments, of 255 bytes before a GIF's first picture.
MAX_BLOCKS = 2**20
# Pillow takes microseconds per pixel for run lengths in a BMP.
MAX_RLE_PIXELS = 2**23
# Bytes of a decompressed PNG text that are searched for an orientation, which
# is at its beginning.
_MAX_TEXT = 2**20

_JPEG = b'\xff\xd8'
_PNG = b'\x89PNG\r\n\x1a\n'
# Formats that are often named .jpg by mistake: (offset, bytes there).
_OTHERS = {
    'HEIC': (4, b'ftyphei'), 'HEIF': (4, b'ftypmif'), 'AVIF': (4, b'ftypavi'),
    'PDF': (0, b'%PDF'), 'ZIP': (0, b'PK\3\4'), 'gzip': (0, b'\x1f\x8b'),
    'a Git LFS pointer (git lfs pull gets the file)':
        (0, b'version https://git-lfs'),
    'SVG': (0, b'<svg'), 'XML, such as SVG': (0, b'<?xml'), 'HTML': (0, b'<'),
}


class Parts(NamedTuple):
  """A file reduced to what its pixels need.

  Attributes:
    kind: its format, one of `KINDS`.
    data: the reduced file.
    orientation: 1 to 8, as in EXIF.
    reduction: factor by which decoding has to divide the sides: 1, 2, 4 or 8.
    bits: number of significant bits of 16-bit words, as declared by the file.
    transparent: stored levels of the one transparent colour.
    paired: whether a pixel's four bytes are a level and an opacity of 16 bits.
    inverted: whether the lowest level is white.
    more_pages: whether pages follow the first, which is the one used.
  """

  kind: str
  data: bytes
  orientation: int = 1
  reduction: int = 1
  bits: int | None = None
  transparent: tuple[int, ...] | None = None
  paired: bool = False
  inverted: bool = False
  more_pages: bool = False


def take_apart(encoded: bytes, name: str) -> Parts:
  """Identifies a file's format by its content, and extracts its parts.

  Raises:
    ImageError: the format is none of `KINDS`, or the file exceeds a limit.
  """
  limits.check_bytes(len(encoded), name)
  for pattern, parts in _FORMATS.values():
    if pattern.match(encoded):
      return parts(encoded, name)
  raise ImageError(name, _what(encoded))


def _what(encoded):
  if not encoded:
    return 'it is empty'
  wanted = 'not a ' + ', '.join(KINDS[:-1]) + f' or {KINDS[-1]} file'
  for kind, (place, magic) in _OTHERS.items():
    if encoded[place : place + len(magic)] == magic:
      return f'it is {kind}, {wanted}'
  return f'it is {wanted}'


def _told(exif, xmp):
  """Returns the orientation from EXIF, or else from XMP data, or else 1."""
  of_exif = orientation_lib.of_exif(exif or b'')
  return of_exif or orientation_lib.of_xmp(xmp or b'') or 1


# --- JPEG ---

_SCAN = 0xDA
# Markers without a length: TEM, RST0 to RST7, SOI and EOI.
_ALONE = frozenset([0, 0x01, *range(0xD0, 0xDA)])
# Markers of frames, which hold the image's size.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# Segments needed for decoding: frames, tables, and those between them.
_NEEDED = frozenset([*range(0xC0, 0xD0), *range(0xDB, 0xE0)]) - {0xC8}
# Segments that specify colours, by name and least length.
_COLOURS = {0xE0: (b'JFIF\0', 14), 0xEE: (b'Adobe', 12)}
_EXIF = b'Exif\0\0'
_XMP = b'http://ns.adobe.com/xap/1.0/\0'
# A marker after a scan's data, in which FF00 and FFD0 to FFD7 may occur.
_MARKER = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')


def jpeg(encoded: bytes, name: str) -> Parts:
  """Extracts a JPEG's parts; raises ImageError if it exceeds a limit."""
  place, segments, all_kept = 2, 0, True
  kept, frame, marker = [_JPEG], None, None
  exif = xmp = None
  while True:
    # Stray bytes are skipped, as in decoders.
    place = encoded.find(b'\xff', place)
    if place < 0 or place + 1 >= len(encoded):
      break
    code = encoded[place + 1]
    if code == 0xFF:
      place += 1
      continue
    if code == _SCAN:
      break
    segments += 1
    if segments > MAX_SEGMENTS:
      raise ImageError(
          name,
          f'there are more than {MAX_SEGMENTS:,} segments in the {place:,} '
          'bytes before its pixels, expected at most that',
      )
    end = place + 2
    if code not in _ALONE:
      end += max(2, int.from_bytes(encoded[place + 2 : place + 4], 'big'))
    data = encoded[place + 4 : end]
    if code in _FRAMES:
      frame, marker = data, code
      _check_frame(encoded, data, code, name)
    named, least = _COLOURS.get(code, (b'', 0))
    if code in _NEEDED or (
        named and data.startswith(named) and len(data) >= least
    ):
      kept.append(encoded[place:end])
    else:
      all_kept = False
    if code == 0xE1 and exif is None and data.startswith(_EXIF):
      exif = data
    elif code == 0xE1 and xmp is None and data.startswith(_XMP):
      xmp = data
    place = end
  if place < 0:
    place = len(encoded)
  reduction = 1
  if frame is not None and len(frame) >= 6:
    reduction = _reduction(encoded, place, frame, marker, name)
  if not all_kept:
    encoded = b''.join((*kept, memoryview(encoded)[place:]))
  return Parts('JPEG', encoded, _told(exif, xmp), reduction)


def _check_frame(encoded, frame, marker, name):
  height, width = struct.unpack('>HH', frame[1:5].ljust(4, b'\0'))
  coefficients = _coefficients(frame) if marker in _PROGRESSIVE else 0
  limits.check_pixels(
      width, height, name, limits.MAX_JPEG_PIXELS,
      _memory(encoded, coefficients, width, height, 8)[1],
  )


def _coefficients(frame):
  """Returns the bytes of all coefficients: two for each of a block's 64."""
  height, width = struct.unpack('>HH', frame[1:5].ljust(4, b'\0'))
  factors = [divmod(pair, 16) for pair in frame[7 :: 3]]
  most = [max(1, *factor) for factor in zip(*factors, (1, 1))]
  blocks = lambda side, share: math.ceil(side * share / 8)
  return 128 * sum(
      blocks(width, across / most[0]) * blocks(height, down / most[1])
      for across, down in factors
  )


def _memory(encoded, coefficients, width, height, reduction):
  """(pixels at a reduction, bytes of memory for decoding them)."""
  pixels = math.ceil(width / reduction) * math.ceil(height / reduction)
  # First for decoding, then for converting to RGB.
  wanted = max(coefficients + 4 * pixels, 8 * pixels) + 2 * len(encoded)
  return pixels, wanted


def _reduction(encoded, place, frame, marker, name):
  """Returns the reduction for the codec to apply; also checks the scans."""
  height, width = struct.unpack('>HH', frame[1:5])
  coefficients = 0
  # All coefficients are in memory if several passes make up a pixel.
  if marker in _PROGRESSIVE or encoded[place + 4 : place + 5] != frame[5:6]:
    coefficients = _coefficients(frame)
    allowed = int(MAX_SCANS * min(1, _SCANNED / max(1, coefficients)))
    # Thumbnails and videos after the end also contain these bytes, so scans are
    # counted exactly only if there are too many markers.
    if (
        _count_scan_markers(encoded) > allowed
        and _count_scans(encoded, place, allowed) > allowed
    ):
      raise ImageError(
          name, f'it has more than {allowed} scans, expected at most that'
      )
  for reduction in (1, 2, 4, 8):
    pixels, wanted = _memory(encoded, coefficients, width, height, reduction)
    if pixels <= limits.MAX_PIXELS and limits.fits(wanted):
      return reduction
  limits.check_memory(wanted, name)
  return reduction


def _count_scan_markers(encoded):
  r"""`encoded.count(b'\xff\xda')`, in a fifth of its time."""
  pairs = (
      np.frombuffer(encoded, '<u2', (len(encoded) - place) // 2, place)
      for place in (0, 1)
  )
  return sum(np.count_nonzero(pair == 0xDAFF) for pair in pairs)


def _count_scans(encoded, place, allowed):
  """Counts the scans from `place` on, to at most one more than allowed."""
  scans = segments = 0
  while scans <= allowed and segments <= MAX_SEGMENTS:
    found = _MARKER.search(encoded, place)
    if found is None or found[0] == b'\xff\xd9':
      return scans
    scans += found[0][1] == _SCAN
    segments += 1
    length = int.from_bytes(encoded[found.end() : found.end() + 2], 'big')
    place = found.end() + max(2, length)
  return allowed + 1


# --- PNG ---

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_PROFILES = (b'Raw profile type exif', b'Raw profile type APP1')
_PNG_XMP = b'XML:com.adobe.xmp'
_END = b'\0\0\0\0IEND\xaeB`\x82'


def _png_chunks(encoded, name) -> Iterator[tuple[bytes, slice]]:
  """Yields (kind, position of the chunk) for all chunks except IEND."""
  place, chunks = len(_PNG), 0
  while place + 8 <= len(encoded):
    start, kind = place, encoded[place + 4 : place + 8]
    place += 12 + int.from_bytes(encoded[place : place + 4], 'big')
    chunks += 1
    if chunks > MAX_CHUNKS:
      raise ImageError(
          name, f'it has more than {MAX_CHUNKS:,} chunks, expected at most that'
      )
    if kind == b'IEND':
      return
    yield kind, slice(start, place)


def _png(encoded, name):
  whole = True
  header = palette = transparency = significant = exif = xmp = None
  rows = []
  for kind, lies in _png_chunks(encoded, name):
    data = memoryview(encoded)[lies.start + 8 : lies.stop - 4]
    if kind == b'IHDR':
      sides = struct.unpack('>II', bytes(data[:8]).ljust(8, b'\0'))
      limits.check_pixels(*sides, name)
      header = header or encoded[lies]
    elif kind == b'IDAT':
      rows.append(memoryview(encoded)[lies])
      whole = lies.stop <= len(encoded)
    elif kind == b'PLTE' and not rows:
      palette = palette or encoded[lies]
    elif kind == b'tRNS' and not rows:
      transparency = transparency or bytes(data[:256])
    elif kind == b'sBIT':
      significant = significant or bytes(data[:4])
    elif kind == b'eXIf':
      exif = bytes(data) if exif is None else exif
    elif kind in (b'tEXt', b'zTXt', b'iTXt'):
      # Only the first of each kind: parsing one takes milliseconds.
      keyword = bytes(data[:80]).partition(b'\0')[0]
      if keyword in _PROFILES and exif is None:
        exif = _raw_profile(_text(kind, data))
      elif keyword == _PNG_XMP and xmp is None:
        xmp = _text(kind, data)
  if header is None or len(header) < 25:
    raise ImageError(name, _BROKEN.format('PNG'))
  depth, colours = header[16], header[17]
  pieces = [_PNG, header]
  paired = (depth, colours) == (16, _GREY_ALPHA) and _is_right(header)
  if paired:
    # A type with as many bytes per pixel, so that Pillow keeps all of them.
    fields = header[8:16] + bytes((8, _RGB_ALPHA)) + header[18:21]
    pieces = [_PNG, _chunk(b'IHDR', fields)]
  transparent = None
  if palette:
    pieces.append(palette)
  if transparency and colours == _PALETTE:
    pieces.append(_chunk(b'tRNS', transparency))
  elif transparency and colours in (_GREY, _RGB):
    count = 1 if colours == _GREY else 3
    if len(transparency) >= 2 * count:
      transparent = struct.unpack(f'>{count}H', transparency[: 2 * count])
      if depth < 8:  # Pillow scales these to 8 bits.
        transparent = tuple(t * 255 // (2**depth - 1) for t in transparent)
  return Parts(
      'PNG',
      b''.join((*pieces, *rows, _END if whole else b'')),
      _told(exif, xmp),
      bits=max(significant, default=None) if significant else None,
      transparent=transparent,
      paired=paired,
  )


def _chunk(kind, data):
  crc = zlib.crc32(kind + data)
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


def _is_right(chunk):
  return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], 'big')


def _text(kind, data):
  """Returns the text of a PNG's chunk; only the beginning of a long one."""
  text = bytes(data[: 2 * _MAX_TEXT]).partition(b'\0')[2]
  compressed = text[1:] if kind == b'zTXt' else b''
  if kind == b'iTXt' and text[:1] == b'\1':
    compressed = text[2:].split(b'\0', 2)[-1]
  if not compressed:
    return text
  with contextlib.suppress(zlib.error):
    return zlib.decompressobj().decompress(compressed, _MAX_TEXT)
  return b''


def _raw_profile(text):
  """Returns EXIF data that ImageMagick wrote as hexadecimal digits."""
  # After three lines: an empty one, the name and the length.
  digits = b''.join(text.split(b'\n')[3:])
  with contextlib.suppress(ValueError):
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode('latin-1'))
  return b''


# --- GIF ---


def _gif(encoded, name):
  width, height = struct.unpack('<HH', encoded[6:10].ljust(4, b'\0'))
  place = 13
  if encoded[10:11] >= b'\x80':
    place += 3 << (encoded[10] & 7) + 1
  header, control, blocks = encoded[:place], b'', 0
  while place < len(encoded):
    if encoded[place : place + 1] == b',':
      left, top, *size = struct.unpack(
          '<4H', encoded[place + 1 : place + 9].ljust(8, b'\0')
      )
      limits.check_pixels(
          max(width, left + size[0]), max(height, top + size[1]), name
      )
      data = b''.join((header, control, memoryview(encoded)[place:]))
      return Parts('GIF', data)
    if encoded[place : place + 1] != b'!':
      place += 1
      blocks += 1
    else:
      start, place = place, place + 2
      while blocks <= MAX_BLOCKS and encoded[place : place + 1] not in (
          b'', b'\0'
      ):
        place += 1 + encoded[place]
        blocks += 1
      place += 1
      # The last of these extensions counts, if it has its four bytes.
      if encoded[start + 1 : start + 3] == b'\xf9\x04':
        control = encoded[start:place]
    if blocks > MAX_BLOCKS:
      raise ImageError(
          name,
          f'it has more than {MAX_BLOCKS:,} blocks before its first picture, '
          'expected at most that',
      )
  raise ImageError(name, _BROKEN.format('GIF'))


# --- BMP ---

_RLE = (1, 2)


def _bmp(encoded, name):
  size = int.from_bytes(encoded[14:18], 'little')
  if size == 12:
    width, height = struct.unpack('<HH', encoded[18:22].ljust(4, b'\0'))
  else:
    width, height = struct.unpack('<ii', encoded[18:26].ljust(8, b'\0'))
  limits.check_pixels(abs(width), abs(height), name)
  runs = size != 12 and int.from_bytes(encoded[30:34], 'little') in _RLE
  if runs and max(abs(width * height), len(encoded)) > MAX_RLE_PIXELS:
    raise ImageError(
        name,
        f'it has {abs(width)} x {abs(height)} pixels and {len(encoded):,} '
        f'bytes as run lengths, expected at most {MAX_RLE_PIXELS:,} of each: '
        'store it without run lengths',
    )
  return Parts('BMP', encoded)


# --- WebP ---

# Bytes per pixel: two canvases of libwebp, the buffer of VP8L, and twice the
# result.
_WEBP_PIXEL = 22
# Flags of animation and alpha.
_WEBP_FLAGS = 0x02 | 0x10


def _webp(encoded, name):
  place, chunks, kept, size = 12, 0, [], (0, 0)
  exif = xmp = data = None
  while place + 8 <= len(encoded) and chunks <= MAX_CHUNKS:
    kind = encoded[place : place + 4]
    length = int.from_bytes(encoded[place + 4 : place + 8], 'little')
    end = place + 8 + length + length % 2
    # Chunks of odd length are padded.
    piece = (encoded[place:end] + b'\0' * (length % 2))[: end - place]
    chunks += 1
    if kind == b'VP8X' and not kept and min(length, len(piece) - 8) >= 10:
      size = _webp_size(kind, piece[8:])
      # Clears the flags of profile, EXIF and XMP.
      kept.append(
          piece[:8] + bytes((piece[8] & _WEBP_FLAGS,)) + piece[9:]
      )
    elif kind == b'EXIF' and exif is None:
      exif = piece[8:]
    elif kind == b'XMP ' and xmp is None:
      xmp = piece[8:]
    elif data is not None:
      pass  # The first picture of an animation counts.
    elif kind in (b'ANIM', b'ALPH'):
      kept.append(piece)
    elif kind in (b'VP8 ', b'VP8L', b'ANMF'):
      size = tuple(map(max, size, _webp_size(kind, piece[8:38])))
      wanted = _WEBP_PIXEL * math.prod(size) + 2 * len(encoded)
      limits.check_pixels(*size, name, wanted=wanted)
      limits.check_memory(wanted, name)
      data = b''.join((*kept, piece))
    place = end
  if data is not None:
    riff = b'RIFF' + struct.pack('<I', len(data) + 4) + b'WEBP'
    return Parts('WebP', riff + data, _told(exif, xmp))
  raise ImageError(name, _BROKEN.format('WebP'))


def _webp_size(kind, body):
  """Returns (width, height) from a chunk; (0, 0) if it is too short."""
  whole = lambda place, size: int.from_bytes(
      body[place : place + size], 'little'
  )
  if kind == b'VP8 ':
    return whole(6, 2) & 0x3FFF, whole(8, 2) & 0x3FFF
  if kind == b'VP8L':
    bits = whole(1, 4)
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  first = 4 if kind == b'VP8X' else 6
  return 1 + whole(first, 3), 1 + whole(first + 3, 3)


# --- TIFF ---

_ORIENTATION = 274
# None, fax, LZW, JPEG, Deflate (two numbers) and PackBits. LZMA would allocate
# as much memory as the file declares; others are rare.
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32946, 32773)
_FLOAT = 3


def _tiff(encoded, name):
  fields = tiff.Directory(encoded, name)
  width, height = fields.value(256, 0), fields.value(257, 0)
  if (compression := fields.value(259, 1)) not in _COMPRESSIONS:
    raise ImageError(
        name,
        f'its compression is TIFF\'s number {compression}, expected none, LZW, '
        'Deflate, JPEG, PackBits or fax',
    )
  bits, samples = fields.values(258, [1]), fields.value(277, 1)
  of_pixel = max(sum(bits), bits[0] * samples) if bits else 0
  rows, across = min(height, fields.value(278, height)), width
  if 322 in fields:
    across, rows = fields.value(322, 0), fields.value(323, 0)
  offsets = fields.values(324 if 324 in fields else 273)
  if len(offsets) > tiff.MAX_TILES:
    raise ImageError(
        name,
        f'it has {len(offsets):,} strips or tiles, expected at most '
        f'{tiff.MAX_TILES:,}',
    )
  lengths = fields.values(325 if 325 in fields else 279)
  if compression != 1 and sum(lengths) > 2 * len(encoded):
    raise ImageError(name, tiff.BROKEN)
  # A strip or tile, the picture twice, and the file twice.
  wanted = (
      -(-across * rows * of_pixel // 8) + 8 * width * height + 2 * len(encoded)
  )
  limits.check_pixels(width, height, name, wanted=wanted)
  limits.check_memory(wanted, name)
  turned = 1
  with contextlib.suppress(ImageError):
    turned = orientation_lib.valid(fields.value(_ORIENTATION, 1)) or 1
  return Parts(
      'TIFF',
      fields.needed_only(),
      turned,
      bits=bits[0] if bits and 8 < bits[0] < 16 else None,
      # Pillow does not invert these depths itself.
      inverted=fields.value(262, 0) == 0 and bool(bits) and bits[0] > 8,
      more_pages=fields.more,
  )


_BROKEN = 'it begins like a {} file, but its headers are broken'

_FORMATS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes, str], Parts]]] = {
    kind: (re.compile(pattern, re.DOTALL), parts)
    for kind, pattern, parts in (
        ('JPEG', rb'\xff\xd8', jpeg),
        ('PNG', rb'\x89PNG\r\n\x1a\n', _png),
        ('WebP', rb'RIFF....WEBP', _webp),
        ('GIF', rb'GIF8[79]a', _gif),
        ('TIFF', rb'II[*+]\0|MM\0[*+]', _tiff),
        ('BMP', rb'BM', _bmp),
    )
}
KINDS = tuple(_FORMATS)
