"""The first directory of a TIFF file: the fields that describe its picture."""

from collections.abc import Sequence

from input_pipeline.errors import ImageError

# Most strips or tiles of a TIFF, each of which takes tens of microseconds;
# files have hundreds of them.
MAX_TILES = 50_000
BROKEN = 'it begins like a TIFF file, but its headers are broken'

# Fields that pixels need (TIFF 6.0): sizes, samples, compression and its
# tables, palette, strips, tiles, inks, colours.
_NEEDED = frozenset((
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320,
    322, 323, 324, 325, 332, 334, 338, 339, 347, 529, 530, 531, 532,
))
# Bytes of the integer types.
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}


class Directory:
  """Reads the fields of a classic TIFF or BigTIFF file.

  Attributes:
    more: whether other directories follow.
  """

  def __init__(self, encoded: bytes, name: str):
    """Finds the fields; `values` reads them.

    Raises:
      ImageError: there are no fields.
    """
    self._encoded, self._name = encoded, name
    self._order = 'little' if encoded.startswith(b'II') else 'big'
    self._large = self._number(2, 2) == 43
    # Bytes of an offset, and of a field.
    self._word, self._entry = (8, 20) if self._large else (4, 12)
    first, counted = self._number(self._word, self._word), self._counted
    count, begin = self._number(first, counted), first + counted
    end = min(begin + self._entry * count, len(encoded) - self._entry + 1)
    if count > MAX_TILES or end <= begin:
      raise ImageError(name, BROKEN)
    self._places = {}
    for place in range(begin, end, self._entry):
      self._places.setdefault(self._number(place, 2), place)
    following = self._number(begin + self._entry * count, self._word)
    self.more = 0 < following < len(encoded)

  def __contains__(self, tag: int) -> bool:
    return tag in self._places

  def values(self, tag: int, default: Sequence[int] = ()) -> list[int]:
    """Reads the integers of a field.

    Raises:
      ImageError: the values are not integers, too many, or missing.
    """
    if tag not in self._places:
      return list(default)
    place = self._places[tag]
    size = _SIZES.get(self._number(place + 2, 2), 0)
    length = self._number(place + 4, self._word)
    if length > 2 * MAX_TILES or not size:
      raise ImageError(
          self._name,
          f'its field {tag} has {length:,} values, expected whole numbers, at '
          f'most {MAX_TILES:,}',
      )
    start = place + 4 + self._word
    if length * size > self._word:
      start = self._number(start, self._word)
    if start + length * size > len(self._encoded):
      raise ImageError(self._name, BROKEN)
    return [self._number(start + k * size, size) for k in range(length)]

  def value(self, tag: int, default: int) -> int:
    """Reads the first integer of a field; see `values`."""
    return (self.values(tag) or [default])[0]

  def needed_only(self) -> bytes:
    """Returns the file with a single directory of the needed fields."""
    kept = b''.join(
        self._encoded[place : place + self._entry]
        for tag, place in sorted(self._places.items()) if tag in _NEEDED
    )
    # Directories begin at even offsets.
    padding = bytes(len(self._encoded) % 2)
    place = len(self._encoded) + len(padding)
    return b''.join((
        self._encoded[: self._word],
        place.to_bytes(self._word, self._order),
        memoryview(self._encoded)[2 * self._word :],
        padding,
        (len(kept) // self._entry).to_bytes(self._counted, self._order),
        kept,
        bytes(self._word),
    ))

  @property
  def _counted(self):
    """Size in bytes of the number of fields."""
    return 8 if self._large else 2

  def _number(self, place, size):
    return int.from_bytes(self._encoded[place : place + size], self._order)
