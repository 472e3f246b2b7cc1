"""Features on disk: what `extract.py` writes, and others read.

A folder holds

  features.npy   [images, ...] float32 or float16, the features of each image
  labels.npy     [images] int32, its class; -1 where a photo is of none
  indices.npy    [images] int64, its place in its source
  names.txt      its name in its source, one a line
  manifest.json  layer, run, source, class names; written last
  code-128.npz   binary codes, if some have been asked for; see `hashing.py`

Features are mapped into memory, so that a set may be larger than that. A small
set can be one .npz file with the same arrays. Neither holds Python objects:
nothing is executed when they are read.
"""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from alexnet.checkpointing import workdir
from input_pipeline.errors import UserError, printable
from input_pipeline.files import atomic, untrusted

FORMAT = 2
MANIFEST = 'manifest.json'
DTYPES = ('float32', 'float16')
NO_LABEL = -1
# Of the folders in which sets are written.
_PARTIAL = '.partial-'
# What a manifest says, if it does.
_ABOUT = {
    'format': int, 'images': int, 'layer': str, 'step': int, 'source': str,
    'set': str, 'workdir': str, 'class_names': list,
}


class FeaturesError(UserError):
  """Features cannot be read or written; the message says what to do."""


class Names(Sequence):
  """The lines of a text file, as bytes and not as so many strings."""

  def __init__(self, text: bytes):
    """Takes the file's bytes; each line has an end."""
    self._text = text
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord('\n'))
    self._starts = np.concatenate([[0], ends + 1])

  def __len__(self):
    return len(self._starts) - 1

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    start, end = self._starts[index : index + 2].tolist()
    return self._text[start : end - 1].decode(errors='replace')


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """Features of images, with what is known of these.

  Attributes:
    features: [images, ...] float32 or float16, mapped into memory if they come
      from a folder.
    labels: [images] int32, -1 where an image is of no class.
    indices: [images] int64, places in the source.
    names: [images] names in the source.
    about: the manifest: 'layer', 'step', 'parameters' (see
      `TrainedNetwork.fingerprint`), 'source', 'set', 'class_names', ...
    path: where the set was read from.
  """

  features: np.ndarray
  labels: np.ndarray
  indices: np.ndarray
  names: Sequence[str]
  about: dict[str, Any]
  path: pathlib.Path

  def __len__(self):
    return len(self.labels)

  @property
  def vectors(self) -> np.ndarray:
    """[images, dimensions], the same features, maps in rows."""
    return self.features.reshape(len(self), -1)


def code_file(bits: int | str) -> str:
  """Name of the file of a set's codes."""
  return f'code-{bits}.npz'


class Writer:
  """Writes a set part by part, to a folder or an .npz file.

  A folder takes no memory for the parts that are written. It is written aside,
  and a set that was there before stays until `close` puts the new one in its
  place. To be used in a `with` statement, which removes what was written if an
  exception leaves it.
  """

  def __init__(
      self, path: pathlib.Path, about: dict[str, Any], dtype: str = 'float32'
  ):
    """Begins a set.

    Args:
      path: of a folder, or of a file that ends in .npz.
      about: what the manifest is to say.
      dtype: one of DTYPES.

    Raises:
      FeaturesError: something else is there already.
    """
    self._path = path
    self._about = about
    self._dtype = np.dtype(dtype)
    self._shape: tuple[int, ...] | None = None
    self._labels, self._indices = [], []
    self._names: list[str] = []
    self._parts: list[np.ndarray] = []
    self._files: list[BinaryIO] = []
    if self._in_file:
      path.parent.mkdir(parents=True, exist_ok=True)
      return
    ours = (path / MANIFEST).exists() or (path / 'features.npy').exists()
    if path.exists() and not (path.is_dir() and (ours or _is_empty(path))):
      raise FeaturesError(
          f'{path} exists and is not a folder of features: give another '
          '--output'
      )
    path.mkdir(parents=True, exist_ok=True)
    for killed in path.glob(f'{_PARTIAL}*'):
      shutil.rmtree(killed, ignore_errors=True)
    self._partial = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=path))
    self._files = [
        open(self._partial / name, 'wb')
        for name in ('features.npy', 'names.txt')
    ]

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if kind is not None:
      self.discard()

  @property
  def _in_file(self):
    return self._path.suffix == '.npz'

  def add(
      self,
      features: np.ndarray,
      labels: np.ndarray,
      indices: np.ndarray,
      names: Sequence[str],
  ) -> None:
    """Adds images.

    Args:
      features: [images, ...], of the same shape for all images.
      labels: [images] integers, -1 for no class.
      indices: [images] integers, places in the source.
      names: [images].
    """
    features = np.ascontiguousarray(features, self._dtype)
    if self._shape is None:
      self._shape = features.shape[1:]
      if self._files:
        self._files[0].write(self._header(0))
    assert features.shape[1:] == self._shape, (features.shape, self._shape)
    assert len(features) == len(labels) == len(indices) == len(names)
    self._labels.append(np.asarray(labels, np.int32))
    self._indices.append(np.asarray(indices, np.int64))
    names = [printable(name) for name in names]
    if self._in_file:
      self._parts.append(features)
      self._names += names
    else:
      self._files[0].write(features.data)
      self._files[1].write(''.join(f'{name}\n' for name in names).encode())

  def close(self) -> None:
    """Completes the set.

    Raises:
      FeaturesError: it has no image.
    """
    if self._shape is None:
      self.discard()
      raise FeaturesError(f'no image for {self._path}: nothing was written')
    labels = np.concatenate(self._labels)
    indices = np.concatenate(self._indices)
    about = {'format': FORMAT, 'images': len(labels), **self._about}
    about |= {'shape': self._shape, 'dtype': self._dtype.name}
    if self._in_file:
      write = functools.partial(
          np.savez,
          features=np.concatenate(self._parts),
          labels=labels,
          indices=indices,
          names=np.asarray(self._names),
          manifest=np.asarray(json.dumps(about)),
      )
      atomic.write(self._path, write, self._path.parent)
      return
    # The header again, which has room for any number of images.
    self._files[0].seek(0)
    self._files[0].write(self._header(len(labels)))
    for file in self._files:
      file.close()
    np.save(self._partial / 'labels.npy', labels, allow_pickle=False)
    np.save(self._partial / 'indices.npy', indices, allow_pickle=False)
    # Without a manifest neither the old set nor half of the new one is read.
    for old in (self._path / MANIFEST, *self._path.glob(code_file('*'))):
      old.unlink(missing_ok=True)
    for file in self._partial.iterdir():
      file.replace(self._path / file.name)
    self._partial.rmdir()
    workdir.write_json(self._path / MANIFEST, about)

  def discard(self) -> None:
    """Removes what was written."""
    for file in self._files:
      file.close()
    if not self._in_file:
      shutil.rmtree(self._partial, ignore_errors=True)
      if _is_empty(self._path):
        self._path.rmdir()

  def _header(self, count):
    buffer = _Bytes()
    np.lib.format.write_array_header_1_0(
        buffer,
        {
            'descr': np.lib.format.dtype_to_descr(self._dtype),
            'fortran_order': False,
            'shape': (count, *self._shape),
        },
    )
    return bytes(buffer)


class _Bytes(bytearray):

  def write(self, data):
    self.extend(data)


def _is_empty(path):
  return next(path.iterdir(), None) is None


def load(path: pathlib.Path) -> FeatureSet:
  """Opens a set that a `Writer` has closed.

  Args:
    path: of the folder or the .npz file.

  Raises:
    FeaturesError: there is none, or not all of it.
  """
  try:
    found = (_load_folder if path.is_dir() else _load_file)(path)
  except FileNotFoundError as error:
    raise FeaturesError(
        f'{path} has no features ({error.filename} is missing): make them with '
        '`python -m alexnet.analysis.features`'
    ) from error
  except Exception as error:  # zipfile, json and NumPy raise many kinds.
    raise FeaturesError(
        f'cannot read the features of {path} ({type(error).__name__}: {error})'
        ': make them again with `python -m alexnet.analysis.features`'
    ) from error
  _check(found)
  counts = [
      len(part)
      for part in (found.features, found.labels, found.indices, found.names)
  ]
  wanted = [found.about.get('images')] * len(counts)
  if found.about.get('format') != FORMAT or counts != wanted:
    raise FeaturesError(
        f'{path} has {counts} features, labels, indices and names, its '
        f'manifest says {wanted[0]} (format {found.about.get("format")}, '
        f'wanted {FORMAT}): make them again'
    )
  return found


def _check(found):
  """Raises FeaturesError for arrays that are no features, labels or indices."""
  features = found.features
  try:
    for name, array, kinds in (
        ('labels', found.labels, 'i'), ('indices', found.indices, 'i')
    ):
      untrusted.check_array(name, array, kinds, (None,))
    if features.dtype.name not in DTYPES or features.ndim < 2:
      raise untrusted.UnreadableError(
          f'features are {features.dtype} of shape {features.shape}, wanted '
          f'{" or ".join(DTYPES)} of shape (images, ...)'
      )
    for field, kind in _ABOUT.items():
      if field in found.about:
        untrusted.take(found.about, field, kind)
    names = found.about.get('class_names', [])
    if not all(isinstance(name, str) for name in names):
      raise untrusted.UnreadableError('class_names are no texts')
    # Not of a set that says nothing of its classes.
    classes = len(names) if 'class_names' in found.about else math.inf
    if found.labels.min(initial=-1) < -1 or found.labels.max(
        initial=-1
    ) >= classes:
      raise untrusted.UnreadableError(
          f'labels are not those of {classes} classes'
      )
  except ValueError as error:
    raise FeaturesError(
        f'cannot use the features of {found.path} ({error}): make them again '
        'with `python -m alexnet.analysis.features`'
    ) from error


def require(found: FeatureSet, *fields: str) -> None:
  """Raises FeaturesError if a set's manifest does not say something."""
  missing = [field for field in fields if field not in found.about]
  if missing:
    raise FeaturesError(
        f'{found.path} does not say its {", ".join(missing)}: make it again '
        'with `python -m alexnet.analysis.features`'
    )


def _load_folder(path):
  about = untrusted.read_json(path / MANIFEST)
  read = lambda name: untrusted.load_array(path / name)
  return FeatureSet(
      untrusted.load_array(path / 'features.npy', mapped=True),
      read('labels.npy'),
      read('indices.npy'),
      Names(untrusted.read_bytes(path / 'names.txt', untrusted.MAX_ARRAYS)),
      about,
      path,
  )


def _load_file(path):
  arrays = untrusted.load_arrays(path)
  about = untrusted.parse_json(str(arrays['manifest'].item()))
  return FeatureSet(
      arrays['features'],
      arrays['labels'],
      arrays['indices'],
      arrays['names'].tolist(),
      untrusted.take({'manifest': about}, 'manifest', dict),
      path,
  )
