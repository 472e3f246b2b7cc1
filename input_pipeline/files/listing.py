"""Lists the files of folders, and counts unused ones."""

import collections
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

from input_pipeline.errors import DataError, printable

HIDDEN = 'hidden or system file(s)'
DANGLING = 'link(s) that lead nowhere'
READ_ALREADY = 'link(s) to folders that are read already'
EMPTY = 'folder(s) without an image'

# Folders and files that systems and file servers leave in data, in lower case:
# macOS, Windows, Linux, Synology, QNAP, NetApp, Python, FrontPage.
_SYSTEM = frozenset((
    '__macosx', 'icon\r', 'network trash folder', 'temporary items',
    'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini',
    '$recycle.bin', '$winreagent', 'system volume information', 'config.msi',
    'msdownld.tmp', 'dfsrprivate', 'lost+found', '@eadir', '@tmp', '@appstore',
    '@database', '@downloads', '@sharebin', '#recycle', '#snapshot', '@recycle',
    '@__thumb', '@recently-snapshot', '~snapshot', 'thevolumesettingsfolder',
    '_vti_cnf', '__pycache__',
))
# Hidden names, and forms with a number or suffix. Lower-case 'recycled' may be
# a class.
_SYSTEM_FORMS = re.compile(
    r'\.|RECYCLE[RD]$|Recycled$|(?i:found\.\d{3}$|paxheaders?(\.|$)|@syno)'
)
# Kinds and names shown of a long list.
_KINDS = 8
_NAMES = 3


class LeftOut:
  """Counts of unused files, by kind.

  Attributes:
    counts: number of files, links and folders by kind: a suffix or a reason.
  """

  def __init__(self):
    self.counts = collections.Counter()
    self._names = {}

  def add(self, kind: str, name: str) -> None:
    """Counts one file, and keeps its name if it is one of the first."""
    self.counts[kind] += 1
    names = self._names.setdefault(kind, [])
    if len(names) < _NAMES:
      names.append(name)

  def update(self, other: 'LeftOut') -> None:
    """Adds the counts of another object."""
    self.counts.update(other.counts)
    for kind, names in other._names.items():
      self._names[kind] = (self._names.get(kind, []) + names)[:_NAMES]

  def __bool__(self):
    return bool(self.counts)

  def __str__(self):
    """Such as '6 .heic (ant/1.heic, ant/2.heic, ant/3.heic, ...), 1 .txt'."""
    kinds = self.counts.most_common()
    texts = [self._about(*kind) for kind in kinds[:_KINDS]]
    if rest := sum(count for _, count in kinds[_KINDS:]):
      texts.append(f'{rest:,} of other kinds')
    return ', '.join(texts)

  def _about(self, kind, count):
    names = [printable(name) for name in sorted(self._names[kind])]
    names += ['...'] * (count > len(names))
    return f'{count:,} {printable(kind)} ({", ".join(names)})'


def is_system(name: str) -> bool:
  """Returns whether a file or folder is hidden or of the operating system."""
  return name.lower() in _SYSTEM or bool(_SYSTEM_FORMS.match(name))


def suffix(name: str) -> str:
  """Returns the kind of an unused file: its suffix, or that it has none."""
  return pathlib.PurePath(name).suffix.lower() or 'no suffix'


def walk(
    folders: Sequence[str | os.PathLike],
    wanted: Callable[[str], bool],
    left_out: LeftOut,
    base: str | os.PathLike | None = None,
) -> Iterator[tuple[int, str]]:
  """Yields the files of folders and their subfolders, in no order.

  Links are followed. A folder reached by several links is read once, and one
  that is also reached without a link is read there only.

  Args:
    folders: folders to list.
    wanted: whether a file of this name is yielded.
    left_out: counts the other files.
    base: folder that the yielded paths are relative to; None for whole paths.

  Yields:
    (index of the folder, path).

  Raises:
    DataError: a folder cannot be listed.
  """
  seen = {_identity(base)} if base is not None else set()
  links = collections.deque()
  prefix = '' if base is None else f'{os.fspath(base)}{os.sep}'
  tell = lambda kind, path: left_out.add(kind, path.removeprefix(prefix))

  def files_below(number, folder, by_link):
    waiting = [folder]
    while waiting:
      folder = waiting.pop()
      identity = _identity(folder)
      if by_link and identity in seen:
        tell(READ_ALREADY, folder)
        continue
      seen.add(identity)
      for entry in _entries(folder):
        if is_system(entry.name):
          tell(HIDDEN, entry.path)
        elif _is_dangling(entry):
          tell(DANGLING, entry.path)
        elif entry.is_dir() and entry.is_symlink():
          links.append((number, entry.path))
        elif entry.is_dir():
          waiting.append(entry.path)
        elif wanted(entry.name):
          yield number, entry.path
        else:
          tell(suffix(entry.name), entry.path)

  numbered = [(n, os.fspath(folder)) for n, folder in enumerate(folders)]
  is_link = {folder: os.path.islink(folder) for _, folder in numbered}
  for number, folder in numbered:
    if not is_link[folder]:
      yield from files_below(number, folder, False)
  # Links to classes come before links within classes.
  links.extendleft(pair for pair in reversed(numbered) if is_link[pair[1]])
  while links:
    yield from files_below(*links.popleft(), True)


def entries(
    folder: str | os.PathLike, left_out: LeftOut
) -> tuple[list[str], list[str]]:
  """Returns the names of the subfolders and files of a folder, sorted.

  Args:
    folder: folder to list.
    left_out: counts system files and broken links.

  Raises:
    DataError: the folder cannot be listed.
  """
  folders, files = [], []
  for entry in _entries(folder):
    if is_system(entry.name):
      left_out.add(HIDDEN, entry.name)
    elif _is_dangling(entry):
      left_out.add(DANGLING, entry.name)
    else:
      (folders if entry.is_dir() else files).append(entry.name)
  return sorted(folders), sorted(files)


def _is_dangling(entry: os.DirEntry) -> bool:
  """Returns whether an entry is a broken link."""
  if not entry.is_symlink():
    return False
  try:
    entry.stat()
  except OSError:
    return True
  return False


def _entries(folder):
  try:
    with os.scandir(folder) as found:
      return list(found)
  except OSError as error:
    raise _cannot_list(folder, error) from error


def _identity(folder):
  try:
    status = os.stat(folder)
  except OSError as error:
    raise _cannot_list(folder, error) from error
  return status.st_dev, status.st_ino


def _cannot_list(folder, error):
  return DataError(
        f'cannot list {printable(str(folder))} ({error.strerror}): fix its '
        'permissions or remove it'
  )
