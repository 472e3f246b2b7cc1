"""Names of classes, sets and files, and texts that have them in lines.

Names that are equal to a person may differ in their bytes: macOS takes letters
with accents apart, editors put a byte order mark before a text, disks of
Windows and macOS do not tell capital letters from small ones.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from input_pipeline.errors import DataError
from input_pipeline.files import untrusted

# Names of the folders of sets; of several evaluation sets the first counts.
TRAIN_FOLDERS = ('train', 'training')
EVALUATION_FOLDERS = (
    'val', 'valid', 'validation', 'eval', 'evaluation', 'test'
)
SET_FOLDERS = {*TRAIN_FOLDERS, *EVALUATION_FOLDERS}

_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}
_ENDS = re.compile('\r\n|\r|\n')


def key(name: str) -> str:
  """The same for names that look equal: composed, without blanks around it."""
  return unicodedata.normalize('NFC', name).strip()


class Names:
  """Finds names among others, also if they are written otherwise."""

  def __init__(self, names: Sequence[str]):
    self._levels = [
        (make, _unique(map(make, names))) for make in (str, key, _folded)
    ]

  def find(self, name: str) -> int | None:
    """Index of a name; None if there is none, or several that are as near.

    As it is written, or else as it looks, or else in capital or small letters.
    """
    for make, places in self._levels:
      if (place := places.get(make(name))) is not None:
        return place
    return None


def look_equal(names: Iterable[str]) -> tuple[str, str] | None:
  """The first two of different names that look equal; None if there are none.

  Capital and small letters are not equal: 'a' and 'A' may be two classes.
  """
  seen = {}
  for name in names:
    if (other := seen.setdefault(key(name), name)) != name:
      return other, name
  return None


def check_classes(found: Sequence[str], place: str, what: str) -> None:
  """Raises DataError for what cannot be the classes of a training set.

  Args:
    found: names of its class folders.
    place: where they are, for the message.
    what: they are called, likewise.
  """
  if len(found) < 2:
    raise DataError(
        f'{place} has {len(found)} {what} ({", ".join(found) or "none"}): '
        'wanted at least 2, each with the images of one class'
    )
  if equal := look_equal(found):
    raise DataError(
        f'{place} has the classes {equal[0]!a} and {equal[1]!a}, '
        'which look equal (Unicode forms, or blanks around them): put their '
        'images into one folder'
    )


def labels_of(
    names: Iterable[str], class_names: Sequence[str], place: str
) -> dict[str, int]:
  """Finds the labels of class folders.

  Args:
    names: of the folders.
    class_names: of the training set, by label.
    place: where the folders are, for the message.

  Returns:
    {name: label}.

  Raises:
    DataError: the training set has no class of such a name.
  """
  classes = Names(class_names)
  labels = {name: classes.find(name) for name in names}
  unknown = sorted(name for name, label in labels.items() if label is None)
  if unknown:
    raise DataError(
        f'{place} has classes that the training set does not have: '
        f'{", ".join(unknown[:5])}: give both sets the same classes'
    )
  return labels


class Looks(NamedTuple):
  """What a folder has: images, and folders with images in them."""

  images: bool
  folders: bool


def find_sets(
    names: Iterable[str], look: Callable[[str], Looks], place: str
) -> tuple[str, str | None] | None:
  """The folders of the training and the evaluation set among those of a level.

  Args:
    names: of all folders there, but those of a system.
    look: says what a folder has.
    place: where they are, for the message.

  Returns:
    Their names, the latter None if it is not there; None where the folders are
    classes.

  Raises:
    DataError: some folders look like sets and others like classes.
  """
  by_lower = {name.lower(): name for name in sorted(names)}
  train, evaluation = (
      next((by_lower[name] for name in wanted if name in by_lower), None)
      for wanted in (TRAIN_FOLDERS, EVALUATION_FOLDERS)
  )
  if not train:
    return None
  sets = [name for lower, name in by_lower.items() if lower in SET_FOLDERS]
  others = {
      name: looks
      for lower, name in by_lower.items()
      if lower not in SET_FOLDERS and any(looks := look(name))
  }
  # Without classes in it, it is a class of trains.
  if not look(train).folders:
    return None if others or not evaluation else (train, evaluation)
  if not others:
    return train, evaluation
  # Kinds of trains, in a folder beside those of several other vehicles.
  alike = all(looks.images for looks in others.values())
  if alike and len(others) > 1 and len(sets) == 1:
    return None
  raise DataError(
      f'{place} has the folder(s) {", ".join(sets)}, which look like sets, and '
      f'beside them {", ".join(list(others)[:5])}, which look like classes: '
      'name the folder of each set by itself (training: '
      '--config.dataset.train_dir and eval_dir; preparing: --source and '
      '--eval_source), move the others elsewhere, or rename a class that is '
      'called like a set'
  )


def read_lines(path: str | os.PathLike) -> list[str]:
  """Lines of a text in UTF-8, or in UTF-16 if it says so, of any system.

  Raises:
    OSError, ValueError: see `untrusted.read_text`.
  """
  data = untrusted.read_bytes(path, untrusted.MAX_TEXT)
  mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
  return _ENDS.split(data.decode(_MARKS.get(mark, 'utf-8')))


def unquoted(text: str) -> str:
  """Without blanks, and quotes if it is between them."""
  text = text.strip()
  if len(text) > 1 and text[0] == text[-1] and text[0] in '"\'':
    return text[1:-1].strip()
  return text


def _folded(name):
  return key(name).casefold()


def _unique(keys):
  places = {}
  for place, name in enumerate(keys):
    places[name] = None if name in places else place
  return places
