"""Compares names of classes, sets and files, and reads lists of names.

Names that are equal to a person may differ in their bytes: macOS takes letters
with accents apart, editors put a byte order mark before a text, disks of
Windows and macOS do not tell capital letters from small ones.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from input_pipeline.errors import DataError, printable
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
# What names of sets may have besides.
_BESIDES = re.compile(r'[\W\d_]|set|data|images?')


def key(name: str) -> str:
  """Key of a name, equal for names that look equal."""
  return unicodedata.normalize('NFC', name).strip()


class Names:
  """Finds names among others, allowing for Unicode forms and case."""

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

  def __contains__(self, name):
    """Whether a name is there, once or more often."""
    return any(make(name) in places for make, places in self._levels)


def look_equal(names: Iterable[str]) -> tuple[str, str] | None:
  """The first two of different names that look equal; None if there are none.

  Capital and small letters are not equal: 'a' and 'A' may be two classes.
  """
  seen = {}
  for name in names:
    if (other := seen.setdefault(key(name), name)) != name:
      return other, name
  return None


def check_classes(
    found: Sequence[str], place: str, what: str, seen: str = ''
) -> None:
  """Raises DataError for what cannot be the classes of a training set.

  Args:
    found: names of its class folders.
    place: where they are, for the message.
    what: they are called, likewise.
    seen: what else is there, likewise.
  """
  if len(found) < 2:
    raise DataError(
        f'{place} has {len(found)} {what} ({", ".join(found) or "none"}): '
        f'wanted at least 2, each with the images of one class{seen}'
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
    names: of the folders.
    class_names: of the training set, by label.
    place: where the folders are, for the message.

  Returns:
    {name: label} of those that the training set has.

  Raises:
    DataError: it has none of them.
  """
  classes = Names(class_names)
  labels = {name: classes.find(name) for name in names}
  known = {name: label for name, label in labels.items() if label is not None}
  if names and not known:
    raise DataError(
        f'{place} has classes that the training set does not have: '
        f'{", ".join(sorted(names)[:5])}: wanted one or more of '
        f'{", ".join(class_names[:5])}{", ..." * (len(class_names) > 5)}'
    )
  return known


class Looks(NamedTuple):
  """What a folder has.

  Attributes:
    images: whether it has images.
    folders: whether folders in it have some.
    names: of the folders in it.
  """

  images: bool = False
  folders: bool = False
  names: frozenset[str] = frozenset()


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
  # With the classes in it that are beside it, or with nothing but folders.
  split = any(
      looks.names & others.keys()
      or (name != train and looks.folders and not looks.images)
      for name, looks in sets.items()
  )
  # Else kinds of trains, in a folder beside those of several other vehicles.
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
  """Says which classes are called like sets; '' if none or only 'train' is."""
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
  """Lines of a text in UTF-8, or in UTF-16 if it says so, of any system.

  Raises:
    OSError, ValueError: see `untrusted.read_text`.
  """
  data = untrusted.read_bytes(path, untrusted.MAX_TEXT)
  mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
  return _ENDS.split(data.decode(_MARKS.get(mark, 'utf-8')))


def unquoted(text: str) -> str:
  """Strips blanks, and quotes around the text."""
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
