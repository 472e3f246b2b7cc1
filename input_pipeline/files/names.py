"""Compares names of classes, sets and files, and reads lists of names.

Names that look equal may differ in their bytes: macOS decomposes accented
letters, editors write a byte order mark, and file systems of Windows and macOS
ignore case.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from input_pipeline.errors import DataError, printable
from input_pipeline.files import untrusted

# Names of the sets' folders; of several evaluation sets the first counts.
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
# Other text that the name of a set may contain.
_BESIDES = re.compile(r'[\W\d_]|set|data|images?')


def key(name: str) -> str:
  """Returns the key of a name, equal for names that look equal."""
  return unicodedata.normalize('NFC', name).strip()


class Names:
  """Finds names among others, allowing for Unicode forms and case."""

  def __init__(self, names: Sequence[str]):
    self._levels = [
        (make, _unique(map(make, names))) for make in (str, key, _folded)
    ]

  def find(self, name: str) -> int | None:
    """Returns the index of a name; None if it is missing or ambiguous.

    Looks for the exact name, then for one that looks equal, then ignores case.
    """
    for make, places in self._levels:
      if (place := places.get(make(name))) is not None:
        return place
    return None

  def __contains__(self, name):
    """Returns whether a name is present, once or more often."""
    return any(make(name) in places for make, places in self._levels)


def look_equal(names: Iterable[str]) -> tuple[str, str] | None:
  """Returns two different names that look equal, or None.

  Case matters: 'a' and 'A' may be two classes.
  """
  seen = {}
  for name in names:
    if (other := seen.setdefault(key(name), name)) != name:
      return other, name
  return None


def check_classes(
    found: Sequence[str], place: str, what: str, seen: str = ''
) -> None:
  """Raises DataError for invalid classes of a training set.

  Args:
    found: names of the class folders.
    place: where they are, for the message.
    what: what they are called in the message.
    seen: what else was found, for the message.
  """
  if len(found) < 2:
    raise DataError(
        f'{place} has {len(found)} {what} ({", ".join(found) or "none"}): '
        f'expected at least 2, each with the images of one class{seen}'
    )
  if equal := look_equal(found):
    raise DataError(
        f'{place} has the classes {equal[0]!a} and {equal[1]!a}, '
        'which look equal (Unicode forms, or blanks around them): put their '
        'images into one folder'
    )


def labels_of(
    names: Collection[str], class_names: Sequence[str], place: str
) -> dict[str, int]:
  """Finds the labels of class folders.

  Args:
    names: names of the folders.
    class_names: classes of the training set, by label.
    place: where the folders are, for the message.

  Returns:
    {name: label} of the folders whose class the training set has.

  Raises:
    DataError: there is no such folder.
  """
  classes = Names(class_names)
  labels = {name: classes.find(name) for name in names}
  known = {name: label for name, label in labels.items() if label is not None}
  if names and not known:
    raise DataError(
        f'{place} has classes that the training set does not have: '
        f'{", ".join(sorted(names)[:5])}: expected one or more of '
        f'{", ".join(class_names[:5])}{", ..." * (len(class_names) > 5)}'
    )
  return known


class Looks(NamedTuple):
  """Contents of a folder.

  Attributes:
    images: whether it has images.
    folders: whether its subfolders have images.
    names: names of its subfolders.
  """

  images: bool = False
  folders: bool = False
  names: frozenset[str] = frozenset()


def find_sets(
    names: Iterable[str], look: Callable[[str], Looks], place: str
) -> tuple[str, str | None] | None:
  """Finds the folders of the training and the evaluation set.

  Args:
    names: names of all folders of a level, without system folders.
    look: returns the contents of a folder.
    place: where they are, for the message.

  Returns:
    Names of the two folders, the second None if it is missing; None if the
    folders are classes.

  Raises:
    DataError: some folders look like sets and others like classes, or none is
      the training set.
  """
  by_lower = {name.lower(): name for name in sorted(names)}
  train, evaluation = (
      next((by_lower[name] for name in wanted if name in by_lower), None)
      for wanted in (TRAIN_FOLDERS, EVALUATION_FOLDERS)
  )
  sets = {
      name: look(name) for lower, name in by_lower.items()
      if lower in SET_FOLDERS
  }
  if not sets:
    return None
  others = {
      name: looks
      for lower, name in by_lower.items()
      if lower not in SET_FOLDERS
      and ((looks := look(name)).images or looks.folders)
  }
  if not others and (train or len(sets) == 1):
    whole = train and (evaluation or sets[train].folders)
    return (train, evaluation) if whole else None
  # Sets if the others are repeated within them, or if they have only folders.
  split = any(
      looks.names & others.keys()
      or (name != train and looks.folders and not looks.images)
      for name, looks in sets.items()
  )
  # Otherwise 'train' may be a class beside several other vehicles.
  alike = all(looks.images for looks in others.values())
  kinds = alike and len(others) > 1 and len(sets) == 1
  if others and not split and (not train or not sets[train].folders or kinds):
    return None
  beside = (
      f'{", ".join(list(others)[:5])}, which look like classes'
      if others else 'no training set'
  )
  raise DataError(
      f'{place} has the folder(s) {", ".join(sets)}, which look like sets, and '
      f'beside them {beside}: name the folder of each set by itself (training: '
      '--config.dataset.train_dir and eval_dir; preparing: --source and '
      '--eval_source), move the others elsewhere, or rename a class that is '
      'called like a set'
  )


def sets_warning(class_names: Iterable[str]) -> str:
  """Warns of classes that are named like sets; '' if none or only 'train'."""
  found = [
      printable(name) for name in class_names
      if _BESIDES.sub('', name.lower()) in SET_FOLDERS
  ]
  if not found or [name.lower() for name in found] == ['train']:
    return ''
  return (
      f'{", ".join(found)} are taken for classes, but are called like sets: if '
      'they are sets, name the folder of the training set by itself'
  )


def read_lines(path: str | os.PathLike) -> list[str]:
  """Reads the lines of a UTF-8 text, or UTF-16 with a byte order mark.

  Raises:
    OSError, ValueError: see `untrusted.read_text`.
  """
  data = untrusted.read_bytes(path, untrusted.MAX_TEXT)
  mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
  return _ENDS.split(data.decode(_MARKS.get(mark, 'utf-8')))


def unquoted(text: str) -> str:
  """Strips blanks and surrounding quotes."""
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
