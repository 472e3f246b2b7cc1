"""Prepared data: resized images on disk, written by `prepare.py`.

A directory holds for each of its sets ('train' and 'evaluation'):

  train-00000-of-00005.npy  pixels [images, size, size, 3] uint8 ('raw'), or
                            concatenated JPEG files, [bytes] uint8 ('jpeg')
  train.npz                 labels [images] int32; shards [shards] int32, the
                            number of images in each; for JPEG files and
                            rectangles sizes [images] int32, in bytes; for
                            rectangles shapes [images, 2] int32, heights and
                            widths
  train.txt                 the images' names in their source, one per line

With --keep_aspect images are rectangles with equal shorter sides, and raw ones
are concatenated like JPEG files.

It also holds statistics.npz of the training set; rejected.txt, a list of
unusable images; and manifest.json, which is written last.

NumPy arrays are mapped into memory: images are read without parsing or copying,
and processes on one machine share the system's cache. A record format would
copy and check each image first, which costs more than cropping it.
"""

import bisect
import functools
import hashlib
import itertools
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline import preprocessing
from input_pipeline import statistics as statistics_lib
from input_pipeline.errors import DataError, printable
from input_pipeline.files import checksums, untrusted
from input_pipeline.images import allowed, decoding
from input_pipeline.sources import Source, encode_png

FORMAT = 1
MANIFEST = 'manifest.json'
STATISTICS = 'statistics.npz'
REJECTED = 'rejected.txt'
SETS = ('train', 'evaluation')
# The aspect of data whose images are not cut to squares.
RECTANGLE = 'rectangle'


def shard_name(set_name: str, number: int, shards: int) -> str:
  """Returns the file name of a shard."""
  return f'{set_name}-{number:05d}-of-{shards:05d}.npy'


def is_prepared(directory: pathlib.Path) -> bool:
  """Returns whether a directory has completely prepared data."""
  return (directory / MANIFEST).is_file()


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Reads a directory's manifest.

  Raises:
    DataError: there is no manifest, or this program cannot read it.
  """
  path = directory / MANIFEST
  try:
    manifest = untrusted.read_json(path)
  except FileNotFoundError as error:
    raise DataError(
        f'{printable(str(directory))} has no {MANIFEST}, so it is not prepared '
        'data, or its preparation did not end: run `python -m '
        'input_pipeline.prepare` (again), or set --config.dataset.dir'
    ) from error
  except (OSError, ValueError) as error:
    raise DataError(f'cannot read {path} ({error}): prepare again') from error
  if manifest.get('format') != FORMAT:
    raise DataError(
        f'{path} is not of format {FORMAT}, which this program reads: prepare '
        'again'
    )
  try:
    _check_manifest(manifest)
  except ValueError as error:
    raise DataError(f'cannot use {path} ({error}): prepare again') from error
  return manifest


def _check_manifest(manifest):
  """Raises ValueError for values that `Prepared` or `verify` cannot use."""
  take = untrusted.take
  if take(manifest, 'settings.storage', str) not in ('jpeg', 'raw'):
    raise untrusted.UnreadableError('settings.storage is neither jpeg nor raw')
  aspects = *preprocessing.ASPECTS, RECTANGLE
  if take(manifest, 'settings.aspect', str) not in aspects:
    raise untrusted.UnreadableError('settings.aspect is not known')
  size = take(manifest, 'settings.size', int)
  if not 1 <= size <= allowed.LARGEST_SQUARE:
    raise untrusted.UnreadableError(
        f'settings.size is {size}, expected 1 to {allowed.LARGEST_SQUARE}'
    )
  if not allowed.is_background(manifest['settings'].get('background', ())):
    raise untrusted.UnreadableError('settings.background is no colour')
  names = take(manifest, 'class_names', list)
  if not names or not all(isinstance(name, str) for name in names):
    raise untrusted.UnreadableError('class_names are no texts')
  take(manifest, 'sources', dict)
  take(manifest, 'versions', dict)
  take(manifest, 'sets.train', dict)
  files = [take(manifest, 'sha256', dict)]
  for set_name in manifest['sets']:
    if set_name not in SETS:
      raise untrusted.UnreadableError(f'sets has {untrusted.shown(set_name)}')
    about = manifest['sets'][set_name]
    take(about, 'sha256', str)
    take(about, 'images', int)
    files.append(take(about, 'files', dict))
    shards = take(about, 'shards', list)
    for number, shard in enumerate(shards):
      take(shard, 'bytes', int)
      take(shard, 'sha256', str)
      name = shard_name(set_name, number, len(shards))
      if take(shard, 'file', str) != name:
        raise untrusted.UnreadableError(
            f'a shard is {untrusted.shown(shard["file"])}, expected {name}'
        )
  for name in (name for of_set in files for name in of_set):
    # Checked on all systems, whichever slash separates folders.
    if not name or {'/', '\\'} & set(name) or name in ('.', '..'):
      raise untrusted.UnreadableError(
          f'{untrusted.shown(name)} is not the name of a file beside it'
      )


class Prepared(Source):
  """One set of a prepared directory."""

  def __init__(
      self, directory: pathlib.Path, manifest: dict[str, Any], set_name: str
  ):
    """Use `open_prepared` instead."""
    about = manifest['sets'][set_name]
    self.name = f'{printable(str(directory))} ({set_name})'
    self.directory = directory
    self.class_names = tuple(manifest['class_names'])
    self._set = set_name
    self._identity = about['sha256']
    self._raw = manifest['settings']['storage'] == 'raw'
    self.aspect = manifest['settings']['aspect']
    if self.aspect == RECTANGLE:
      # Squares of any size are cut from them, as from other images.
      self.shorter, self.aspect = manifest['settings']['size'], 'keep'
    else:
      self.size = manifest['settings']['size']
    self._shapes: np.ndarray | None = None
    self.background = tuple(manifest['settings'].get('background', ()))
    path = directory / f'{set_name}.npz'
    try:
      arrays = untrusted.load_arrays(path)
      self._labels, shards, sizes = self._checked(arrays, about)
    except Exception as error:  # zipfile and NumPy raise many kinds.
      raise _unreadable(path, error) from error
    # Index of each shard's first image in the set.
    self._first = [0, *itertools.accumulate(shards)][:-1]
    if sizes is not None:
      # Offsets of each file in its shard.
      self._ends = np.cumsum(sizes, dtype=np.int64)
      self._starts = self._ends - sizes
      for first, count in zip(self._first, shards):
        if count:
          begin = self._starts[first]
          self._starts[first : first + count] -= begin
          self._ends[first : first + count] -= begin
    self._shards: list[np.ndarray | None] = [None] * len(shards)
    for number, shard in enumerate(about['shards']):
      self._check_size(number, shard['bytes'])

  def _checked(self, arrays, about):
    """Returns (labels, shards, sizes or None), checked against the manifest."""
    read = lambda name: untrusted.check_array(
        name, arrays[name], 'iu', (None,)
    )
    labels, shards = read('labels'), read('shards').tolist()
    sizes = read('sizes') if self._in_bytes else None
    images = len(labels)
    if (
        images != about['images']
        or len(shards) != len(about['shards'])
        or min(shards, default=0) < 0
        or sum(shards) != images
        or (sizes is not None and len(sizes) != images)
    ):
      raise untrusted.UnreadableError('its arrays do not fit the manifest')
    if images and not 0 <= labels.min() <= labels.max() < len(self.class_names):
      raise untrusted.UnreadableError(
          f'labels are not those of {len(self.class_names)} classes'
      )
    if sizes is not None:
      # At most a whole shard each, so that sums in int64 cannot overflow.
      most = np.array([shard['bytes'] for shard in about['shards']], np.int64)
      most = most.repeat(np.array(shards, np.int64))
      if wrong := sizes[(sizes < 1) | (sizes > most)][:1].tolist():
        raise untrusted.UnreadableError(f'a file of {wrong[0]} bytes')
      sizes = sizes.astype(np.int64)
    if self.shorter:
      self._shapes = self._checked_shapes(arrays, sizes)
    self._counts = shards
    return labels, shards, sizes

  def _checked_shapes(self, arrays, sizes):
    """Returns [images, 2] heights and widths of the rectangles."""
    shapes = untrusted.check_array(
        'shapes', arrays['shapes'], 'iu', (len(sizes), 2)
    )
    longest = preprocessing.LONGEST * self.shorter
    wrong = (shapes.min(1) != self.shorter) | (shapes.max(1) > longest)
    if self._raw:
      wrong |= 3 * shapes.astype(np.int64).prod(1) != sizes
    if found := shapes[wrong][:1].tolist():
      raise untrusted.UnreadableError(
          f'an image of {found[0][1]} x {found[0][0]} pixels, whose shorter '
          f'side is to be {self.shorter}'
      )
    return shapes

  def __getstate__(self):
    # Another process maps the shards itself, and reads names on demand.
    state = {**vars(self), '_shards': [None] * len(self._shards)}
    state.pop('_names', None)
    return state

  def __len__(self):
    return len(self._labels)

  def read(self, index):
    label = int(self._labels[index])
    if self._raw:
      return encode_png(self._pixels(index)), label
    return self._stored(index).tobytes(), label

  def picture(self, index):
    return Image.fromarray(self._pixels(index)), int(self._labels[index])

  def image(self, index, box=preprocessing.WHOLE):
    if self.shorter:
      picture, label = self.picture(index)
      return preprocessing.resized(picture, box=box), label
    return preprocessing.cut(self._pixels(index), box), int(self._labels[index])

  def _pixels(self, index):
    """Returns a stored image, [height, width, 3] uint8."""
    stored, shape = self._stored(index), (self.size, self.size)
    if self.shorter:
      shape = tuple(self._shapes[index].tolist())
    if self._raw:
      return stored.reshape(*shape, 3)
    try:
      return decoding.decode_stored(stored, *shape)
    except ValueError as error:
      raise DataError(
          f'{self.describe(index)} of {self.name} is damaged ({error}): '
          'prepare again, or copy the directory again'
      ) from error

  def describe(self, index):
    return self._names[index]

  @functools.cached_property
  def _names(self):
    path = self.directory / f'{self._set}.txt'
    try:
      names = untrusted.read_text(path, untrusted.MAX_ARRAYS).split('\n')
      if len(names) < len(self):
        raise untrusted.UnreadableError(
            f'it has {len(names):,} lines, expected {len(self):,}'
        )
      return names
    except (OSError, ValueError) as error:
      raise _unreadable(path, error) from error

  def fingerprint(self):
    return self._identity

  def statistics(self):
    try:
      return statistics_lib.load(self.directory / STATISTICS)
    except DataError as error:
      path = self.directory / STATISTICS
      raise _unreadable(path, error.__cause__) from error

  def _stored(self, index):
    number = bisect.bisect_right(self._first, index) - 1
    shard = self._shards[number]
    if shard is None:
      shard = self._map(number)
      self._shards[number] = shard
    if self._in_bytes:
      return shard[self._starts[index] : self._ends[index]]
    return shard[index - self._first[number]]

  @property
  def _in_bytes(self):
    """Whether shards are concatenated files or rectangles, not an array."""
    return not self._raw or self.shorter is not None

  def _path(self, number):
    name = shard_name(self._set, number, len(self._shards))
    return self.directory / name

  def _map(self, number):
    path = self._path(number)
    try:
      # An ndarray of the mapping: memmap objects are slow to index.
      shard = np.asarray(untrusted.load_array(path, mapped=True))
      first, count = self._first[number], self._counts[number]
      shape = count, self.size, self.size, 3
      if self._in_bytes:
        shape = (int(self._ends[first + count - 1]) if count else 0,)
      if shard.dtype != np.uint8 or shard.shape != shape:
        raise untrusted.UnreadableError(
            f'it has {shard.dtype} of shape {shard.shape}, expected uint8 of '
            f'{shape}'
        )
      return shard
    except (OSError, ValueError) as error:
      raise _unreadable(path, error) from error

  def _check_size(self, number, wanted):
    path = self._path(number)
    try:
      got = path.stat().st_size
    except OSError as error:
      raise _unreadable(path, error) from error
    if got != wanted:
      raise DataError(
          f'{path} has {got:,} bytes, expected {wanted:,}: copy the directory '
          'again, or prepare again'
      )


def _unreadable(path, error):
  return DataError(
      f'cannot read {path} ({error}): copy the directory again, or prepare '
      'again'
  )


def open_prepared(
    directory: pathlib.Path,
) -> tuple[Prepared, Prepared | None]:
  """Opens prepared data.

  Args:
    directory: folder written by `prepare.py`.

  Returns:
    (training source, evaluation source or None).

  Raises:
    DataError: the data is unfinished, incomplete, or of another format.
  """
  manifest = read_manifest(directory)
  train, evaluation = (
      Prepared(directory, manifest, name) if name in manifest['sets'] else None
      for name in SETS
  )
  return train, evaluation


def verify(directory: pathlib.Path) -> int:
  """Compares all files of prepared data with the manifest's checksums.

  Returns:
    The number of files.

  Raises:
    DataError: a file is missing or damaged.
  """
  manifest = read_manifest(directory)
  wanted = manifest.pop('manifest_sha256', None)
  got = hashlib.sha256(to_json(manifest)).hexdigest()
  if got != wanted:
    raise _damaged(directory / MANIFEST, got, wanted)
  hashes = dict(manifest['sha256'])
  for about in manifest['sets'].values():
    hashes |= about['files']
    hashes |= {shard['file']: shard['sha256'] for shard in about['shards']}
  for name, wanted in hashes.items():
    try:
      got = checksums.of_file(directory / name)
    except OSError as error:
      got = error.strerror
    if got != wanted:
      raise _damaged(directory / name, got, wanted)
  return len(hashes) + 1


def _damaged(path, got, wanted):
  return DataError(
      f'{path} is damaged (SHA-256 {got}, expected {wanted}): copy it again, '
      'or prepare again'
  )


def to_json(values: dict[str, Any]) -> bytes:
  """Encodes a manifest as in its file."""
  return (json.dumps(values, indent=1) + '\n').encode()
