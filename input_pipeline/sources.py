"""Sources of encoded images and their labels.

A source has a length and `read(index)`. The order of its examples is the same
in all runs on the same data.
"""

import abc
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
from input_pipeline.files import checksums, listing
from input_pipeline.files import names as names_lib
from input_pipeline.files import paths as paths_lib
from input_pipeline.images import decoding
from input_pipeline.statistics import Statistics

EXTENSIONS = (
    '.bmp', '.dib', '.gif', '.jfi', '.jfif', '.jif', '.jpe', '.jpeg', '.jpg',
    '.mpo', '.pjp', '.pjpeg', '.png', '.tif', '.tiff', '.webp',
)

# Prefix of the files in which a training set's statistics are cached.
STATISTICS = 'alexnet_statistics_'

# Kind of evaluation images that are left out.
UNKNOWN_CLASS = 'image(s) of classes that the training set does not have'

# How holding out treats equal files: they may come to both sides, which
# `copies_warning` reports, or they stay together.
COPIES = ('warn', 'together')
# Largest number of files of both sets that are compared by default, which takes
# seconds.
MOST_COMPARED = 50_000
# Most bytes to read for the comparison, which reads 64 KiB of most photos.
MOST_READ = 2**32
_SHOWN_COPIES = 3


class Source(abc.ABC):
  """Encoded images with labels, by index.

  Attributes:
    name: name for messages.
    class_names: names of the classes, in the order of their labels.
    directory: folder of the data, for caches beside it; None if there is none.
    size: side of the stored squares, in pixels; None if any size can be read.
    shorter: shorter side of stored rectangles, in pixels; None for others.
    aspect: how images become squares, one of `preprocessing.ASPECTS`.
    ignored: unused files of the data; None if unknown.
    background: colour behind transparent pixels, see `decoding.decode`.
  """

  name: str
  class_names: Sequence[str]
  directory: pathlib.Path | None = None
  size: int | None = None
  shorter: int | None = None
  aspect: str = 'keep'
  ignored: listing.LeftOut | None = None
  background: decoding.Background = decoding.WHITE

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of examples."""

  @abc.abstractmethod
  def read(self, index: int) -> tuple[bytes, int]:
    """Returns an example's image file and its label."""

  @abc.abstractmethod
  def describe(self, index: int) -> str:
    """Describes an example for messages, by its file if it has one."""

  def relative_name(self, index: int) -> str:
    """Returns the name of an example within its source."""
    return self.describe(index)

  @abc.abstractmethod
  def fingerprint(self) -> str:
    """Changes if the examples change; a key for cached statistics."""

  def image(
      self, index: int, box: preprocessing.Box = preprocessing.WHOLE
  ) -> tuple[np.ndarray, int]:
    """Returns a part of an example's square, and its label.

    Args:
      index: index of the example.
      box: the region to return.

    Returns:
      [box.size, box.size, 3] uint8, label.

    Raises:
      DataError: the image cannot be read.
    """
    picture, label = self.picture(index)
    return preprocessing.resized(picture, box=box), label

  def picture(self, index: int) -> tuple[Image.Image, int]:
    """Returns an example's whole image, 8-bit RGB, and its label.

    Raises:
      DataError: the image cannot be read.
    """
    encoded, label = self.read(index)
    name = self.describe(index)
    return decoding.decode(encoded, name, self.background), label

  def resized(self, index: int, size: int) -> tuple[np.ndarray, int]:
    """Returns a square of any size, [size, size, 3] uint8, and its label.

    Stored squares of another size are resized.

    Raises:
      DataError: the image cannot be read.
    """
    if self.size in (None, size):
      return self.image(index, preprocessing.whole(size))
    square, label = self.image(index, preprocessing.whole(self.size))
    box = preprocessing.whole(size)
    return preprocessing.resized(Image.fromarray(square), box=box), label

  def statistics(self) -> Statistics | None:
    """Returns the statistics stored with the data, or None."""
    return None

  def identity(self) -> str:
    """Identifies the data when a run continues.

    Unlike the fingerprint, it is the same for a copy elsewhere.
    """
    return self.fingerprint()


class Entry(NamedTuple):
  """A file of a folder or an archive.

  Attributes:
    path: path relative to the folder or archive.
    label: label of its class.
    place: position in the archive; None in a folder.
    linked: whether it was found through a link to a folder of the archive.
  """

  path: str
  label: int
  place: Any = None
  linked: bool = False


class Files(Source):
  """Images that are files with a path.

  Attributes:
    root: the folder or archive.
    entries: the files.
  """

  def __init__(
      self,
      root: pathlib.Path,
      class_names: Sequence[str],
      entries: Iterable[Entry],
  ):
    """Use `open_folder` or `archives.open_archive` instead.

    Args:
      root: the folder or archive.
      class_names: names of the classes, by label.
      entries: the files.
    """
    self.name = printable(str(root))
    self.root = root
    self.class_names = tuple(class_names)
    self.entries = tuple(entries)
    self.ignored = listing.LeftOut()

  def __len__(self):
    return len(self.entries)

  def read(self, index):
    return self.encoded(index), self.entries[index].label

  def encoded(self, index: int, most: int | None = None) -> bytes:
    """Returns an example's file, or its first bytes; see `read`."""
    return self._bytes(self.entries[index], most)

  @abc.abstractmethod
  def _bytes(self, entry: Entry, most: int | None = None) -> bytes:
    """Reads a file, or its first bytes."""

  @abc.abstractmethod
  def file_sizes(self) -> list[int | None]:
    """Returns the size of each file in bytes; None where unknown."""

  def describe(self, index):
    return str(self.root / self.entries[index].path)

  def relative_name(self, index):
    return self.entries[index].path

  def identity(self):
    return digest(*(f'{entry.path}\0{entry.label}' for entry in self.entries))

  def select(self, entries: Iterable[Entry]) -> 'Files':
    """Returns the same folder or archive with some of its entries."""
    selected = copy.copy(self)
    selected.entries = tuple(entries)
    return selected


class Folder(Files):
  """A folder with a subfolder of image files per class."""

  @property
  def directory(self):
    return self.root

  def _bytes(self, entry, most=None):
    path = self.root / entry.path
    try:
      return _contents(path, most)
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

  def file_sizes(self):
    return [_size(self.root / entry.path) for entry in self.entries]

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
  """Opens a folder with a subfolder per class.

  Args:
    directory: its subfolders are the classes, in alphabetical order. Files are
      searched in them recursively, links included; unused files are counted in
      the source's `ignored`.
    class_names: classes of the training set, to open an evaluation set. It
      needs an image of one of them; other classes are left out.

  Returns:
    The source.

  Raises:
    DataError: no such folder; a training set with fewer than two classes, a
      class without images, or two names that look equal; an evaluation set
      without any image of the training set's classes.
  """
  directory = paths_lib.local(directory, 'the folder of images')
  if not directory.is_dir():
    raise DataError(
        f'{directory} is not a folder: set --config.dataset.train_dir (and '
        'eval_dir) to a folder with one subfolder for each class'
    )
  ignored = listing.LeftOut()
  found, files = listing.entries(directory, ignored)
  for name in files:
    if is_image(name):
      ignored.add('image(s) beside the class folders', name)
    elif not name.startswith(STATISTICS):
      ignored.add(listing.suffix(name), name)
  if class_names is None:
    names_lib.check_classes(
        found, str(directory), 'class subfolder(s)',
        _instead(directory, found, ignored),
    )
  images = images_below(
      [directory / name for name in found], ignored, directory
  )
  named = []
  for name, paths in zip(found, images):
    named += [(name, path) for path in paths]
    if not paths and class_names is None:
      raise DataError(
          f'class folder {directory / name} has no image '
          f'({", ".join(EXTENSIONS)}): add some or remove the folder'
          f'{f"; left out: {ignored}" if ignored else ""}'
      )
    if not paths:
      ignored.add(listing.EMPTY, name)
  if not named:
    raise DataError(
        f'{directory} has no image of a class: expected subfolders called like '
        'those of the training set, with an image in one of them'
        f'{f"; left out: {ignored}" if ignored else ""}'
    )
  labels = names_lib.labels_of(
      {name for name, _ in named}, class_names or found, str(directory)
  )
  entries = []
  for name, path in named:
    relative = str(path.relative_to(directory))
    if name in labels:
      entries.append(Entry(relative, labels[name]))
    else:
      ignored.add(UNKNOWN_CLASS, relative)
  folder = Folder(directory, class_names or found, entries)
  folder.ignored = ignored
  return folder


def look_into(directory: pathlib.Path) -> names_lib.Looks:
  """Looks into a folder, see `names.find_sets`."""
  names, files = listing.entries(directory, listing.LeftOut())
  below = listing.walk(
      [directory / name for name in names], is_image, listing.LeftOut(),
      directory,
  )
  # The first image is enough: a training set is not listed twice.
  return names_lib.Looks(
      any(map(is_image, files)), any(True for _ in below), frozenset(names)
  )


def _instead(directory, found, ignored):
  """Returns a hint for a folder without classes."""
  if len(found) == 1:
    names = sorted(look_into(directory / found[0]).names)
    if len(names) > 1:
      return (
          f'; {found[0]} has {", ".join(names[:3])}: if these are the classes, '
          f'give {directory / found[0]}'
      )
  return f'; left out: {ignored}' if ignored else ''


def images_below(
    folders: Sequence[pathlib.Path],
    ignored: listing.LeftOut,
    base: pathlib.Path | None = None,
) -> list[list[pathlib.Path]]:
  """Lists the images in folders and their subfolders, alphabetically.

  Args:
    folders: the folders.
    ignored: counts the other files.
    base: see `listing.walk`.

  Returns:
    The images of each folder.

  Raises:
    DataError: a folder cannot be listed.
  """
  images = [[] for _ in folders]
  for number, path in listing.walk(folders, is_image, ignored, base):
    images[number].append(pathlib.Path(path))
  return [sorted(paths) for paths in images]


def _size(path):
  try:
    return path.stat().st_size
  except OSError:  # Reported when the file is read.
    return None


def _contents(path, most=None):
  status = path.stat()
  # Reading a pipe or a device could wait forever.
  if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
    raise ImageError(str(path), 'it is not a file')
  decoding.check_bytes(status.st_size, str(path))
  if most is None:
    return path.read_bytes()
  with path.open('rb') as f:
    return f.read(most)


def read_file(path: str | os.PathLike) -> bytes:
  """Reads an image file.

  Raises:
    ImageError: the file cannot be read.
  """
  if paths_lib.is_address(os.fspath(path)):
    raise ImageError(
        os.fspath(path), 'an address: download it, and give the file'
    )
  try:
    return _contents(pathlib.Path(path))
  except (OSError, ValueError) as error:  # ValueError: a zero byte in the name.
    reason = getattr(error, 'strerror', None) or str(error)
    raise ImageError(str(path), reason) from error


def is_image(name: str) -> bool:
  """Returns whether a file's name is that of an image and not hidden."""
  return name.lower().endswith(EXTENSIONS) and not name.startswith('.')


def split_files(
    source: Files,
    eval_fraction: float,
    seed: int,
    *,
    single_images_stay: bool = False,
    copies: str = COPIES[0],
) -> tuple[Files, Files]:
  """Holds out a part of each class, chosen by seed.

  Args:
    source: all examples.
    eval_fraction: share of each class to hold out, at least one image.
    seed: selects the images.
    single_images_stay: keep the image of a single-image class for training
      instead of raising an error.
    copies: one of COPIES. 'together' keeps equal files on the side of the first
      of them, so that the shares of classes are no longer exact.

  Returns:
    (training source, evaluation source). The former has all of `ignored`.

  Raises:
    DataError: a class has a single image.
  """
  if not 0 < eval_fraction < 1:
    raise DataError(
        f'dataset.eval_fraction is {eval_fraction}: expected more than 0 and '
        'less than 1'
    )
  together, followers = {}, set()
  if copies == 'together':
    for group in checksums.find_copies(source.file_sizes(), source.encoded):
      together[group[0]] = group
      followers.update(group[1:])
  of_class = [[] for _ in source.class_names]
  for index, entry in enumerate(source.entries):
    of_class[entry.label].append(index)
  rng = np.random.default_rng(seed)
  chosen = set()
  for name, indices in zip(source.class_names, of_class):
    units = [
        together.get(index, [index])
        for index in indices
        if index not in followers
    ]
    if len(units) < 2 and not single_images_stay:
      raise DataError(
          f'class {printable(name)} of {source.name} has one image'
          f'{", copies aside" if followers else ""}, too few to hold one out: '
          'add images or set --config.dataset.eval_dir'
      )
    count, held_out = max(1, round(eval_fraction * len(indices))), 0
    for number in rng.permutation(len(units))[: max(0, len(units) - 1)]:
      if held_out >= count:
        break
      chosen.update(units[number])
      held_out += len(units[number])
  side = lambda is_chosen: source.select(
      source.entries[index]
      for indices in of_class
      for index in indices
      if (index in chosen) == is_chosen
  )
  train, evaluation = side(False), side(True)
  evaluation.ignored = listing.LeftOut()  # Reported once.
  return train, evaluation


def copies_in_both(train: Source, evaluation: Source) -> list[tuple[str, str]]:
  """Finds files of the evaluation set that are in the training set too.

  Args:
    train: the training set.
    evaluation: the evaluation set.

  Returns:
    (file of the evaluation set, equal file of the training set) pairs. Empty if
    a set has no files of its own, or both together have more than
    MOST_COMPARED.

  Raises:
    checksums.TooMuchError: more than MOST_READ bytes would be read.
  """
  if not all(isinstance(source, Files) for source in (train, evaluation)):
    return []
  count = len(train)
  if count + len(evaluation) > MOST_COMPARED:
    return []
  sizes = [*train.file_sizes(), *evaluation.file_sizes()]
  shared = set(sizes[:count]) & set(sizes[count:])
  sizes = [size if size in shared else None for size in sizes]

  def read(index, most):
    if index < count:
      return train.encoded(index, most)
    return evaluation.encoded(index - count, most)

  found = []
  for group in checksums.find_copies(sizes, read, MOST_READ):
    if group[0] < count:
      name = train.describe(group[0])
      found += [
          (evaluation.describe(i - count), name) for i in group if i >= count
      ]
  return found


def copies_warning(
    train: Source, evaluation: Source, advice: str = ''
) -> str:
  """Warns that images are in both sets, with the advice; '' if none are."""
  count = len(train) + len(evaluation)
  own = all(isinstance(source, Files) for source in (train, evaluation))
  try:
    found = copies_in_both(train, evaluation)
    reason = f'{count:,} files' if own and count > MOST_COMPARED else ''
  except checksums.TooMuchError as error:
    reason = str(error)
  if reason:
    return (
        'it is not known whether evaluation images are in the training set, '
        f'too: not compared ({reason})'
    )
  if not found:
    return ''
  examples = ', '.join(
      ' = '.join(map(printable, pair)) for pair in found[:_SHOWN_COPIES]
  )
  more = ', ...' if len(found) > _SHOWN_COPIES else ''
  return (
      f'{len(found):,} of {len(evaluation):,} evaluation images are in the '
      f'training set, too ({examples}{more}), so that results are better than '
      f'on new images{advice and f": {advice}"}'
  )


def digest(*parts: str) -> str:
  """Returns a short hash of a list of strings."""
  # File names may hold bytes that are not UTF-8.
  data = '\n'.join(parts).encode(errors='surrogateescape')
  return hashlib.sha256(data).hexdigest()[:16]


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes uint8 pixels, [height, width] or [height, width, 3], as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()
