"""Mutates files; a function of a random generator."""

import random
import re
import struct
import zlib
from collections.abc import Sequence

# Numbers at which programs often fail.
_WHOLE = (0, 1, 2, 7, 8, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**26,
          2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1)
# Replacements for a number in a text.
_NUMBERS = (
    '0', '-1', '1', '-0.0', '0.5', '1e-320', '1e308', '1e999', 'NaN', 'nan',
    'inf', '-Infinity', '1000000000000', '99999999999999999999', '9' * 5000,
    '2147483648', '4294967297', '1e12', 'true', 'null', '""', '[]', '{}',
)
_NUMBER = re.compile(rb'-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?')
_MOST_CHANGES = 6


def mutate(
    data: bytes,
    rng: random.Random,
    others: Sequence[bytes],
    words: Sequence[bytes] = (),
    *,
    text: bool = False,
) -> bytes:
  """Changes a file in one to six places.

  Args:
    data: the file.
    rng: source of all random choices.
    others: files to take parts from.
    words: words of the format, inserted anywhere.
    text: whether it is a text, with numbers and lines.

  Returns:
    A file that differs.
  """
  shape = [_truncate, _remove, _repeat]
  if text:  # Invalid UTF-8 is refused before parsing, so it is rare here.
    ways = [*[_number] * 8, *[_letter] * 3, _line, _line, _nest, _flip, *shape]
  else:
    ways = [*[_flip] * 4, *[_byte] * 2, *[_length] * 2, _insert, *shape]
  if words:
    ways += [lambda d, r: _put(d, r, r.choice(words))] * 2
  if others:
    ways.append(lambda d, r: _splice(d, r, r.choice(others)))
  changed = data
  while changed == data:
    for _ in range(1 + int(rng.random() ** 3 * _MOST_CHANGES)):
      changed = rng.choice(ways)(changed, rng)
  return changed


def _place(data, rng):
  # Headers at the beginning are the most interesting.
  if rng.random() < 0.5:
    return rng.randrange(min(len(data), 256) + 1)
  return rng.randrange(len(data) + 1)


def _range(data, rng):
  start = _place(data, rng)
  most = max(1, len(data) // 4) if rng.random() < 0.3 else 16
  return start, start + rng.randint(1, most)


def _flip(data, rng):
  if not data:
    return data
  changed = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 4, 32))):
    changed[_place(data[:-1], rng)] ^= 1 << rng.randrange(8)
  return bytes(changed)


def _letter(data, rng):
  return _put(data, rng, bytes([rng.randrange(32, 127)]))


def _byte(data, rng):
  return _put(data, rng, bytes([rng.choice((0, 1, 127, 128, 254, 255))]))


def _truncate(data, rng):
  return data[: rng.randrange(len(data) + 1)]


def _remove(data, rng):
  start, end = _range(data, rng)
  return data[:start] + data[end:]


def _repeat(data, rng):
  start, end = _range(data, rng)
  times = rng.choice((1, 1, 2, 10, 100))
  return data[:end] + data[start:end] * times + data[end:]


def _insert(data, rng):
  place = _place(data, rng)
  return data[:place] + rng.randbytes(rng.randint(1, 32)) + data[place:]


def _put(data, rng, piece):
  place = _place(data, rng)
  return data[:place] + piece + data[place + len(piece) :]


def _length(data, rng):
  """Replaces a number of 1, 2, 4 or 8 bytes."""
  kind = rng.choice('BHHIIIQ')
  size = struct.calcsize(kind)
  value = rng.choice(_WHOLE)
  if rng.random() < 0.3 and len(data) >= size:
    place = rng.randrange(len(data) - size + 1)
    value = int.from_bytes(data[place : place + size], 'big')
    value += rng.choice((-2, -1, 1, 2, 1000))
  value %= 1 << (8 * size)
  return _put(data, rng, value.to_bytes(size, rng.choice(('big', 'little'))))


def _splice(data, rng, other):
  start = rng.randrange(len(other) + 1)
  return data[: _place(data, rng)] + other[start:]


def _number(data, rng):
  found = list(_NUMBER.finditer(data))
  if not found:
    return data
  chosen = rng.choice(found)
  text = rng.choice(_NUMBERS).encode()
  return data[: chosen.start()] + text + data[chosen.end() :]


def _line(data, rng):
  lines = data.split(b'\n')
  a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
  lines[a], lines[b] = lines[b], lines[a] if rng.random() < 0.5 else lines[b]
  return b'\n'.join(lines)


def _nest(data, rng):
  start, end = rng.choice(((b'[', b']'), (b'{"a":', b'}'), (b'(', b')')))
  depth = rng.choice((1, 100, 1000, 100_000))
  place = _place(data, rng)
  return data[:place] + start * depth + end * depth + data[place:]


# --- Images ---


def png_chunk(kind: bytes, data: bytes) -> bytes:
  """Creates a chunk of a PNG file, with a correct checksum."""
  crc = zlib.crc32(kind + data)
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


def with_checksums(png: bytes) -> bytes:
  """Corrects a PNG's checksums, so that its contents are read."""
  pieces, place = [png[:8]], 8
  while place + 8 <= len(png):
    length = int.from_bytes(png[place : place + 4], 'big')
    end = place + 8 + length
    if end + 4 > len(png):
      break
    pieces += [
        png[place:end],
        struct.pack('>I', zlib.crc32(png[place + 4 : end])),
    ]
    place = end + 4
  return b''.join(pieces) + png[place:]


def repacked(png: bytes, rng: random.Random) -> bytes:
  """Changes a PNG's pixels before compression."""
  pieces, rows, place = [png[:8]], b'', 8
  while place + 12 <= len(png):
    length = int.from_bytes(png[place : place + 4], 'big')
    kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
    if kind == b'IDAT':
      rows += data
    else:
      if kind == b'IEND':
        changed = mutate(zlib.decompress(rows), rng, ())
        pieces.append(png_chunk(b'IDAT', zlib.compress(changed)))
      pieces.append(png_chunk(kind, data))
    place += 12 + length
  return b''.join(pieces)


def resize_header(image: bytes, rng: random.Random) -> bytes:
  """Changes the number of pixels in the header of a JPEG or PNG."""
  sides = (0, 1, 8, 100, 4000, 8192, 65535)
  width, height = rng.choice(sides), rng.choice(sides)
  if image.startswith(b'\x89PNG'):
    if rng.random() < 0.3:
      width, height = rng.choice(_WHOLE) % 2**32, rng.choice(_WHOLE) % 2**32
    return image[:16] + struct.pack('>II', width, height) + image[24:]
  found = re.search(rb'\xff[\xc0-\xc2]', image)
  if not found:
    return image
  place = found.end() + 3
  size = struct.pack('>HH', height, width)
  return image[:place] + size + image[place + 4 :]

