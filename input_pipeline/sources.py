"""Where encoded images and their labels come from.

A source has a length and `read(index)`; the order of its examples never changes
between two runs on the same data.
"""

import abc
import collections
import copy
import hashlib
import io
import os
import pathlib
import stat
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from input_pipeline import preprocessing
from input_pipeline.errors import DataError, ImageError, printable
from input_pipeline.files import decoding
from input_pipeline.statistics import Statistics

# Names of the folders of sets; of several evaluation sets the first counts.
TRAIN_FOLDERS = ('train', 'training')
EVALUATION_FOLDERS = (
    'val', 'valid', 'validation', 'eval', 'evaluation', 'test'
)
SET_FOLDERS = {*TRAIN_FOLDERS, *EVALUATION_FOLDERS}

EXTENSIONS = (
    '.bmp', '.dib', '.gif', '.jfi', '.jfif', '.jif', '.jpe', '.jpeg', '.jpg',
    '.mpo', '.pjp', '.pjpeg', '.png', '.tif', '.tiff', '.webp',
)


class Source(abc.ABC):
  """Encoded images with labels, by index.

  Attributes:
    name: for messages.
    class_names: the classes' names, in the order of their labels.
    directory: folder of the data, for caches beside it; None if it has none.
    size: side of the squares that it has, in pixels; None: any that is wanted.
    aspect: how images become squares, one of `preprocessing.ASPECTS`.
    background: of transparent pixels, see `decoding.decode`.
  """

  name: str
  class_names: Sequence[str]
  directory: pathlib.Path | None = None
  size: int | None = None
  aspect: str = 'keep'
  background: decoding.Background = decoding.WHITE

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of examples."""

  @abc.abstractmethod
  def read(self, index: int) -> tuple[bytes, int]:
    """Returns an example's image file and its label."""

  @abc.abstractmethod
  def describe(self, index: int) -> str:
    """Names an example for messages, by its file where it has one."""

  def relative_name(self, index: int) -> str:
    """Names an example in its source, wherever that lies."""
    return self.describe(index)

  @abc.abstractmethod
  def fingerprint(self) -> str:
    """Changes when the examples change; a key for cached statistics."""

  def image(
      self, index: int, box: preprocessing.Box = preprocessing.WHOLE
  ) -> tuple[np.ndarray, int]:
    """Returns a part of an example's square, and its label.

    Args:
      index: of the example.
      box: the part.

    Returns:
      [box.size, box.size, 3] uint8, label.

    Raises:
      DataError: the image cannot be read.
    """
    encoded, label = self.read(index)
    name = self.describe(index)
    square = preprocessing.to_square(
        encoded, name, box=box, background=self.background
    )
    return square, label

  def resized(self, index: int, size: int) -> tuple[np.ndarray, int]:
    """An example's square in any size, [size, size, 3] uint8, and its label.

    Where there are squares of one size already, these are resized.

    Raises:
      DataError: the image cannot be read.
    """
    if self.size in (None, size):
      return self.image(index, preprocessing.whole(size))
    square, label = self.image(index, preprocessing.whole(self.size))
    box = preprocessing.whole(size)
    return preprocessing.resized(Image.fromarray(square), box=box), label

  def statistics(self) -> Statistics | None:
    """The statistics of these images, where they came with the data."""
    return None

  def identity(self) -> str:
    """Says whether a run goes on with the data that it began with.

    Unlike the fingerprint it is the same for a copy elsewhere.
    """
    return self.fingerprint()


class Entry(NamedTuple):
  """A file of a folder or an archive.

  Attributes:
    path: relative to the folder or archive.
    label: its class.
    place: where in the archive it lies; None in a folder.
  """

  path: str
  label: int
  place: Any = None


class Files(Source):
  """Images that are files with a path.

  Attributes:
    root: the folder or archive.
    entries: the files.
    ignored: how many files of other types were seen, by their suffix.
  """

  def __init__(
      self,
      root: pathlib.Path,
      class_names: Sequence[str],
      entries: Iterable[Entry],
  ):
    """Use `open_folder` or `archives.open_archive`.

    Args:
      root: the folder or archive.
      class_names: the classes' names, by label.
      entries: the files.
    """
    self.name = printable(str(root))
    self.root = root
    self.class_names = tuple(class_names)
    self.entries = tuple(entries)
    self.ignored = collections.Counter()

  def __len__(self):
    return len(self.entries)

  def read(self, index):
    entry = self.entries[index]
    return self._bytes(entry), entry.label

  @abc.abstractmethod
  def _bytes(self, entry: Entry) -> bytes:
    """Reads a file."""

  def describe(self, index):
    return str(self.root / self.entries[index].path)

  def relative_name(self, index):
    return self.entries[index].path

  def identity(self):
    return digest(*(f'{entry.path}\0{entry.label}' for entry in self.entries))

  def select(self, entries: Iterable[Entry]) -> 'Files':
    """The same folder or archive with some of its entries."""
    selected = copy.copy(self)
    selected.entries = tuple(entries)
    return selected


class Folder(Files):
  """Class subfolders of image files."""

  @property
  def directory(self):
    return self.root

  def _bytes(self, entry):
    path = self.root / entry.path
    try:
      return _contents(path)
    except OSError as error:
      of_the_image = isinstance(
          error, (PermissionError, IsADirectoryError, FileNotFoundError)
      )
      if of_the_image and self.root.is_dir():
        raise ImageError(str(path), error.strerror) from error
      raise DataError(
          f'cannot read {printable(str(path))} ({error.strerror}): check the '
          'disk or the network that it lies on'
      ) from error

  def fingerprint(self):
    def state(entry):
      try:
        status = (self.root / entry.path).stat()
      except OSError as error:
        raise ImageError(str(self.root / entry.path), error.strerror) from error
      return f'{entry.path}\0{status.st_size}\0{status.st_mtime_ns}'

    return digest(*map(state, self.entries))


def open_folder(
    directory: str | os.PathLike, class_names: Sequence[str] | None = None
) -> Folder:
  """Lists a folder of class subfolders.

  Args:
    directory: its subfolders are the classes, in alphabetical order. Files are
      searched in them recursively; hidden ones and other types are ignored.
    class_names: the classes of a training set that this one must follow.

  Returns:
    The source.

  Raises:
    DataError: no such folder, fewer than two classes, a class without images,
      or classes that the training set does not have.
  """
  directory = pathlib.Path(directory).expanduser()
  if not directory.is_dir():
    raise DataError(
        f'{directory} is not a folder: set --config.dataset.train_dir (and '
        'eval_dir) to a folder with one subfolder for each class'
    )
  found = sorted(
      entry.name
      for entry in directory.iterdir()
      if entry.is_dir() and not entry.name.startswith('.')
  )
  if len(found) < 2:
    raise DataError(
        f'{directory} has {len(found)} class subfolder(s) '
        f'({", ".join(found) or "none"}): wanted at least 2, each with the '
        'images of one class'
    )
  if class_names is None:
    class_names = found
  elif unknown := sorted(set(found) - set(class_names)):
    raise DataError(
        f'{directory} has classes that the training set does not have: '
        f'{", ".join(unknown[:5])}: give both sets the same subfolders'
    )
  entries, ignored = [], collections.Counter()
  for name in found:
    images = images_below(directory / name, ignored)
    if not images:
      raise DataError(
          f'class folder {directory / name} has no image '
          f'({", ".join(EXTENSIONS)}): add some or remove the folder'
      )
    label = class_names.index(name)
    entries += [
        Entry(str(path.relative_to(directory)), label) for path in images
    ]
  folder = Folder(directory, class_names, entries)
  folder.ignored = ignored
  return folder


def images_below(
    directory: pathlib.Path, ignored: collections.Counter
) -> list[pathlib.Path]:
  """Images in a folder and the folders in it, in alphabetical order.

  Args:
    directory: the folder.
    ignored: other files are counted there, by their suffix.

  Raises:
    DataError: a folder cannot be listed.
  """

  def fail(error):
    raise DataError(
        f'cannot list {printable(error.filename)} ({error.strerror}): mend its '
        'permissions or remove it'
    ) from error

  images = []
  for parent, folders, names in os.walk(directory, onerror=fail):
    # A folder that is named like an image is told of like a broken image.
    names += [name for name in folders if is_image(name)]
    folders[:] = [
        name
        for name in folders
        if not name.startswith('.') and not is_image(name)
    ]
    images += [pathlib.Path(parent) / name for name in names if is_image(name)]
    ignored.update(suffix for name in names if (suffix := other_suffix(name)))
  return sorted(images)


def _contents(path):
  status = path.stat()
  # Reading a pipe or a device would wait, for ever if need be.
  if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
    raise ImageError(str(path), 'it is not a file')
  decoding.check_bytes(status.st_size, str(path))
  return path.read_bytes()


def read_file(path: str | os.PathLike) -> bytes:
  """Reads a single image's file.

  Raises:
    ImageError: it cannot be read.
  """
  try:
    return _contents(pathlib.Path(path))
  except (OSError, ValueError) as error:  # The latter: a zero byte in its name.
    reason = getattr(error, 'strerror', None) or str(error)
    raise ImageError(str(path), reason) from error


def other_suffix(name: str) -> str:
  """The suffix of a file that is neither an image nor hidden; '' of others."""
  if name.startswith('.') or is_image(name):
    return ''
  return pathlib.PurePath(name).suffix.lower() or 'no suffix'


def is_image(name: str) -> bool:
  """Whether a file's name is that of an image, and not hidden."""
  return name.lower().endswith(EXTENSIONS) and not name.startswith('.')


def split_files(
    source: Files,
    eval_fraction: float,
    seed: int,
    *,
    single_images_stay: bool = False,
) -> tuple[Files, Files]:
  """Holds out a part of each class, chosen by seed.

  Args:
    source: all examples.
    eval_fraction: share of each class to hold out, at least one image of it.
    seed: decides which.
    single_images_stay: leave the image of a class that has one to training,
      instead of raising an error.

  Returns:
    (training source, evaluation source).

  Raises:
    DataError: a class has a single image.
  """
  if not 0 < eval_fraction < 1:
    raise DataError(
        f'dataset.eval_fraction is {eval_fraction}: wanted more than 0 and '
        'less than 1'
    )
  of_class = [[] for _ in source.class_names]
  for entry in source.entries:
    of_class[entry.label].append(entry)
  rng = np.random.default_rng(seed)
  train, held_out = [], []
  for name, entries in zip(source.class_names, of_class):
    if len(entries) < 2 and not single_images_stay:
      raise DataError(
          f'class {printable(name)} of {source.name} has one image, too few to '
          'hold one out: add images or set --config.dataset.eval_dir'
      )
    count = max(1, round(eval_fraction * len(entries)))
    count = max(0, min(count, len(entries) - 1))
    chosen = set(rng.permutation(len(entries))[:count].tolist())
    for index, entry in enumerate(entries):
      (held_out if index in chosen else train).append(entry)
  return source.select(train), source.select(held_out)


def digest(*parts: str) -> str:
  """A short name for a list of strings."""
  # File names may be bytes that are not text.
  data = '\n'.join(parts).encode(errors='surrogateescape')
  return hashlib.sha256(data).hexdigest()[:16]


def encode_png(pixels: np.ndarray) -> bytes:
  """A PNG file of uint8 pixels, [height, width] or [height, width, 3]."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()
