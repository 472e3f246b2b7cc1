"""Files of images that come from anywhere, decoded within limits.

Every JPEG and PNG file that this program has not just made itself is decoded
here, and nowhere else. What could take much memory or time is known from the
file's headers, and is looked at before anything is decoded: no file takes more
than 1 GiB, or more than seconds.
"""

import contextlib
import io
import re
import warnings

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from input_pipeline.errors import ImageError

# Pixels of an image. Decoding may take 13 bytes for each (a progressive CMYK
# JPEG: four coefficients of 16 bits, then four bytes), besides the file.
MAX_PIXELS = 2**26
# Bytes of an encoded file.
MAX_BYTES = 2**27
# Passes over a progressive JPEG; encoders make 10, some 20. A file of a
# megabyte can have thousands over all of the largest image.
MAX_SCANS = 100
# Segments of a JPEG before its pixels, and their bytes; chunks of a PNG. Each
# costs Pillow microseconds, and of EXIF segments it copies all before as well.
# Metadata of 10 MB are 160 segments.
MAX_SEGMENTS = 2000
MAX_HEADER = 2**24
MAX_CHUNKS = 100_000
# Below and beyond these, a square would be made of next to nothing. The
# smallest images that are worth something are scikit-learn's digits.
SMALLEST_SIDE = 8
LARGEST_ASPECT = 100

# What files that are called .jpg turn out to be; (place, bytes there).
_OTHERS = {
    'GIF': (0, b'GIF8'), 'BMP': (0, b'BM'), 'TIFF': (0, b'II*\0'),
    'TIFF (big-endian)': (0, b'MM\0*'), 'WebP': (8, b'WEBP'),
    'HEIC': (4, b'ftyphei'), 'AVIF': (4, b'ftypavi'), 'PDF': (0, b'%PDF'),
    'ZIP': (0, b'PK\3\4'), 'gzip': (0, b'\x1f\x8b'), 'HTML': (0, b'<'),
}
_JPEG = b'\xff\xd8'
_PNG = b'\x89PNG\r\n\x1a\n'
_SCAN = b'\xff\xda'
# Markers that no length follows, as Pillow has it.
_ALONE = frozenset(
    bytes([code]) for code in (0, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))
)
# Those of segments that say how large the image is.
_FRAMES = frozenset(
    bytes([code])
    for code in range(0xC0, 0xD0)
    if code not in (0xC4, 0xC8, 0xCC)
)
# A marker behind a scan's data; FF00 is data, FFD0 to FFD7 lie between.
_MARKER = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')

# Pillow warns of each broken field of the metadata, of which one file can have
# thousands; none is of interest here.
warnings.filterwarnings('ignore', module=r'PIL\.')


def decode(encoded: bytes, name: str) -> Image.Image:
  """Decodes a JPEG or PNG to an upright RGB image.

  Greyscale, CMYK, palette, transparent and 16-bit images become 8-bit RGB, the
  EXIF orientation is applied, and of an animation the first picture counts. The
  file's name says nothing about what it is.

  Args:
    encoded: the file's bytes.
    name: of the file, for the error.

  Raises:
    ImageError: truncated, not an image, too small, too long, or beyond the
      limits above; says what was got and what is wanted.
  """
  image = None
  if encoded.startswith(_JPEG):
    _check_jpeg(encoded, name)
    image = _decode_plain_jpeg(encoded)
  elif encoded.startswith(_PNG):
    _check_png(encoded, name)
  if image is None:
    image = _decode_any(encoded, name)
  shorter, longer = sorted(image.size)
  if shorter < SMALLEST_SIDE or longer > LARGEST_ASPECT * shorter:
    raise ImageError(
        name,
        f'it has {image.width} x {image.height} pixels, wanted at least '
        f'{SMALLEST_SIDE} on each side and no side more than {LARGEST_ASPECT} '
        'times the other',
    )
  return image


def decode_square(encoded: bytes | np.ndarray, size: int) -> np.ndarray:
  """Decodes a JPEG that is known to be a square, as prepared data has them.

  Args:
    encoded: the file.
    size: its side, in pixels.

  Returns:
    [size, size, 3] uint8.

  Raises:
    ValueError: it is something else, or beyond the limits above.
  """
  try:
    check_bytes(len(encoded), '')
    encoded = bytes(encoded)
    if encoded.startswith(_JPEG):
      _check_jpeg(encoded, '')
  except ImageError as error:
    raise ValueError(error.reason) from error
  height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
  if (height, width) != (size, size):
    raise ValueError(
        f'it has {width} x {height} pixels, wanted {size} x {size}'
    )
  if space not in ('YCbCr', 'Gray'):
    raise ValueError(f'its colours are {space}, wanted YCbCr')
  return simplejpeg.decode_jpeg(encoded)


def check_bytes(count: int, name: str) -> None:
  """Raises ImageError for a file of so many bytes, before it is read."""
  if count > MAX_BYTES:
    raise ImageError(
        name, f'it has {count:,} bytes, wanted at most {MAX_BYTES:,}'
    )


def _check_pixels(width, height, name):
  if width * height > MAX_PIXELS:
    raise ImageError(
        name,
        f'it has {width} x {height} pixels, wanted at most {MAX_PIXELS:,} in '
        'all',
    )


def _check_jpeg(encoded, name):
  check_bytes(len(encoded), name)
  first_scan = _first_scan(encoded, name)
  # Other pictures and films may lie behind the end, so that a file can have
  # these bytes more often than scans.
  if (
      _count_markers(encoded) > MAX_SCANS
      and _count_scans(encoded, first_scan) > MAX_SCANS
  ):
    raise ImageError(
        name, f'it has more than {MAX_SCANS} scans, wanted at most that'
    )


def _count_markers(encoded):
  """`encoded.count(_SCAN)`, in a fifth of its time."""
  pairs = (
      np.frombuffer(encoded, '<u2', (len(encoded) - place) // 2, place)
      for place in (0, 1)
  )
  scan = int.from_bytes(_SCAN, 'little')
  return sum(np.count_nonzero(pair == scan) for pair in pairs)


def _first_scan(encoded, name):
  """Place of the first scan, as Pillow finds it; checks what is before it.

  Bytes between two segments count like one. Where this is no JPEG after all, a
  decoder will say so.
  """
  place, segments = 2, 0
  while place < len(encoded) and encoded[place : place + 2] != _SCAN:
    segments += 1
    if segments > MAX_SEGMENTS or place > MAX_HEADER:
      raise ImageError(
          name,
          f'there are {segments:,} segments in the {place:,} bytes before its '
          f'pixels, wanted at most {MAX_SEGMENTS:,} in {MAX_HEADER:,}',
      )
    if encoded[place] != 0xFF or encoded[place + 1 : place + 2] == b'\xff':
      place += 1
    elif encoded[place + 1 : place + 2] in _ALONE:
      place += 2
    else:
      if encoded[place + 1 : place + 2] in _FRAMES:
        _check_pixels(
            int.from_bytes(encoded[place + 7 : place + 9], 'big'),
            int.from_bytes(encoded[place + 5 : place + 7], 'big'),
            name,
        )
      length = int.from_bytes(encoded[place + 2 : place + 4], 'big')
      place += 2 + max(2, length)
  return place


def _count_scans(encoded, place):
  """Scans from one on, up to one more than allowed."""
  scans = segments = 0
  while scans <= MAX_SCANS and segments <= MAX_SEGMENTS:
    found = _MARKER.search(encoded, place)
    if found is None or found[0] == b'\xff\xd9':
      return scans
    scans += found[0] == _SCAN
    segments += 1
    length = int.from_bytes(encoded[found.end() : found.end() + 2], 'big')
    place = found.end() + max(2, length)
  return MAX_SCANS + 1


def _check_png(encoded, name):
  check_bytes(len(encoded), name)
  place, chunks = len(_PNG), 0
  while place + 8 <= len(encoded):
    length = int.from_bytes(encoded[place : place + 4], 'big')
    kind = encoded[place + 4 : place + 8]
    if kind == b'IHDR':  # The last one counts; the first is refused already.
      _check_pixels(
          int.from_bytes(encoded[place + 8 : place + 12], 'big'),
          int.from_bytes(encoded[place + 12 : place + 16], 'big'),
          name,
      )
    chunks += 1
    if chunks > MAX_CHUNKS:
      raise ImageError(
          name, f'it has more than {MAX_CHUNKS:,} chunks, wanted at most that'
      )
    place += 12 + length


def _decode_plain_jpeg(encoded):
  """The usual file in half of Pillow's time; None for all others.

  Both use libjpeg-turbo in the same way, and give the same pixels.
  """
  # Either kind of metadata may say that the image has to be turned.
  if b'Exif' in encoded or b'Orientation' in encoded:
    return None
  try:
    if simplejpeg.decode_jpeg_header(encoded)[2] != 'YCbCr':
      return None
    return Image.fromarray(simplejpeg.decode_jpeg(encoded))
  except ValueError:
    return None  # Pillow has the better message, or decodes it after all.


def _decode_any(encoded, name):
  if not encoded:
    raise ImageError(name, 'it is empty')
  try:
    image = Image.open(io.BytesIO(encoded), formats=('JPEG', 'PNG'))
    _check_pixels(*image.size, name)
    # Raised for a PNG whose EXIF data cannot be parsed; the image still can.
    with contextlib.suppress(SyntaxError):
      image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16') or image.mode == 'I':
      # Pillow would clip 16-bit levels at 255 instead of scaling them.
      levels = np.asarray(image) >> 8
      image = Image.fromarray(levels.astype(np.uint8))
    return image.convert('RGB')
  except ImageError:
    raise
  except UnidentifiedImageError as error:
    raise ImageError(name, _what(encoded)) from error
  except Image.DecompressionBombError as error:
    # Pillow's own limit is beyond ours, and it raises before it tells a size.
    raise ImageError(
        name, f'{error}, wanted at most {MAX_PIXELS:,} pixels'
    ) from error
  except Exception as error:  # Pillow raises many kinds for broken files.
    raise ImageError(name, f'{type(error).__name__}: {error}') from error


def _what(encoded):
  for kind, (place, magic) in _OTHERS.items():
    if encoded[place : place + len(magic)] == magic:
      return f'it is {kind}, not a JPEG or PNG file'
  if encoded.startswith((_JPEG, _PNG)):
    kind = 'JPEG' if encoded.startswith(_JPEG) else 'PNG'
    return f'it begins like a {kind} file, but its headers are broken'
  return 'it is not a JPEG or PNG file'
