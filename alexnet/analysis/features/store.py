"""Reads and writes features on disk.

A folder holds

  features.npy   [images, ...] float32 or float16, features of the images
  labels.npy     [images] int32, their classes; -1 for photos without a class
  indices.npy    [images] int64, their indices in the source
  names.txt      their names in the source, one per line
  manifest.json  layer, run, source, class names; written last
  code-128.npz   binary codes, once they were used; see `hashing.py`

Features are mapped into memory, so a set may be larger than memory. A small set
can be one .npz file with the same arrays. Neither holds Python objects, and
nothing is executed when they are read.
"""

import dataclasses
import io
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet.checkpointing import workdir
from input_pipeline.errors import UserError, printable
from input_pipeline.files import atomic, untrusted

FORMAT = 2
MANIFEST = 'manifest.json'
DTYPES = ('float32', 'float16')
NO_LABEL = -1
# Prefix of the folders in which sets are written.
_PARTIAL = '.partial-'
# Types of the manifest's optional fields.
_ABOUT = {
    'format': int, 'images': int, 'layer': str, 'step': int, 'source': str,
    'set': str, 'workdir': str, 'class_names': list,
}

_HOW = 'with `python -m alexnet.analysis.features`'


class FeaturesError(UserError):
  """Features cannot be read or written; the message says what to do."""


class Names(Sequence):
  """The lines of a text file, kept as bytes to save memory."""

  def __init__(self, text: bytes):
    """Takes the file's bytes, in which each line ends with a newline."""
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
  """Features of images, with their labels, indices and names.

  Attributes:
    features: [images, ...] float32 or float16, mapped into memory if loaded
      from a folder.
    labels: [images] int32, -1 for images without a class.
    indices: [images] int64, indices in the source.
    names: [images] names in the source.
    about: the manifest: 'layer', 'step', 'parameters' (see
      `TrainedNetwork.fingerprint`), 'source', 'set', 'class_names', ...
    path: path that the set was loaded from.
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
    """The features as [images, dimensions], with maps flattened."""
    return self.features.reshape(len(self), -1)


def code_file(bits: int | str) -> str:
  """File name of a set's codes."""
  return f'code-{bits}.npz'


class Writer:
  """Writes a set part by part, to a folder or an .npz file.

  Parts written to a folder take no memory. The folder is temporary: an earlier
  set stays until `close` replaces it. As a context manager, the writer removes
  what was written if there is an exception.
  """

  def __init__(
      self, path: pathlib.Path, about: dict[str, Any], dtype: str = 'float32'
  ):
    """Starts writing a set.

    Args:
      path: path of a folder, or of a file with suffix .npz.
      about: contents of the manifest.
      dtype: one of DTYPES.

    Raises:
      FeaturesError: the path exists and is something else.
    """
    self._path, self._about, self._dtype = path, about, np.dtype(dtype)
    self._shape: tuple[int, ...] | None = None
    self._labels, self._indices = [], []
    self._partial = None
    if path.suffix == '.npz':
      path.parent.mkdir(parents=True, exist_ok=True)
      self._features, self._names = io.BytesIO(), io.BytesIO()
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
    self._features = open(self._partial / 'features.npy', 'wb')
    self._names = open(self._partial / 'names.txt', 'wb')

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if kind is not None:
      self.discard()

  def add(
      self,
      features: np.ndarray,
      labels: np.ndarray,
      indices: np.ndarray,
      names: Sequence[str],
  ) -> None:
    """Adds images.

    Args:
      features: [images, ...], with the same shape in all calls.
      labels: [images] integers, -1 for no class.
      indices: [images] integers, indices in the source.
      names: [images] names.
    """
    features = np.ascontiguousarray(features, self._dtype)
    if self._shape is None:
      self._shape = features.shape[1:]
      self._write_header(0)
    assert features.shape[1:] == self._shape, (features.shape, self._shape)
    assert len(features) == len(labels) == len(indices) == len(names)
    self._labels.append(np.asarray(labels, np.int32))
    self._indices.append(np.asarray(indices, np.int64))
    self._features.write(features.data)
    lines = ''.join(f'{printable(name)}\n' for name in names)
    self._names.write(lines.encode())

  def close(self) -> None:
    """Completes the set.

    Raises:
      FeaturesError: there are no images.
    """
    if self._shape is None:
      self.discard()
      raise FeaturesError(f'no image for {self._path}: nothing was written')
    arrays = {
        'labels': np.concatenate(self._labels),
        'indices': np.concatenate(self._indices),
    }
    count = len(arrays['labels'])
    about = {'format': FORMAT, 'images': count, **self._about}
    about |= {'shape': self._shape, 'dtype': self._dtype.name}
    self._write_header(count)
    if self._partial is None:
      self._features.seek(0)
      arrays['features'] = np.lib.format.read_array(self._features)
      arrays['names'] = np.array([*Names(self._names.getvalue())])
      arrays['manifest'] = np.array(json.dumps(about))
      write = lambda file: np.savez(file, **arrays)
      atomic.write(self._path, write, self._path.parent)
      return
    self._features.close()
    self._names.close()
    for name, array in arrays.items():
      np.save(self._partial / f'{name}.npy', array, allow_pickle=False)
    # Without a manifest neither set counts as complete during the exchange.
    for old in (self._path / MANIFEST, *self._path.glob(code_file('*'))):
      old.unlink(missing_ok=True)
    for file in self._partial.iterdir():
      file.replace(self._path / file.name)
    self._partial.rmdir()
    workdir.write_json(self._path / MANIFEST, about)

  def discard(self) -> None:
    """Removes what was written."""
    self._features.close()
    self._names.close()
    if self._partial is not None:
      shutil.rmtree(self._partial, ignore_errors=True)
      if _is_empty(self._path):
        self._path.rmdir()

  def _write_header(self, count):
    """Writes a header with room for any number of images."""
    self._features.seek(0)
    descr = np.lib.format.dtype_to_descr(self._dtype)
    shape = (count, *self._shape)
    np.lib.format.write_array_header_1_0(
        self._features,
        {'descr': descr, 'fortran_order': False, 'shape': shape},
    )


def _is_empty(path):
  return next(path.iterdir(), None) is None


def load(path: pathlib.Path) -> FeatureSet:
  """Loads a set written by a `Writer`.

  Args:
    path: path of the folder or the .npz file.

  Raises:
    FeaturesError: there is no set, or it is incomplete.
  """
  try:
    found = (_load_folder if path.is_dir() else _load_file)(path)
    _check(found)
  except FileNotFoundError as error:
    raise FeaturesError(
        f'{path} has no features ({error.filename} is missing): make them '
        f'{_HOW}'
    ) from error
  except Exception as error:  # zipfile, json and NumPy raise many kinds.
    raise FeaturesError(
        f'cannot read the features of {path} ({type(error).__name__}: {error})'
        f': make them again {_HOW}'
    ) from error
  return found


def _check(found):
  """Raises ValueError for arrays that are not features or do not match."""
  features, about = found.features, found.about
  for name in ('labels', 'indices'):
    untrusted.check_array(name, getattr(found, name), 'i', (None,))
  if features.dtype.name not in DTYPES or features.ndim < 2:
    raise untrusted.UnreadableError(
        f'features are {features.dtype} of shape {features.shape}, expected '
        f'{" or ".join(DTYPES)} of shape (images, ...)'
    )
  for field, kind in _ABOUT.items():
    if field in about:
      untrusted.take(about, field, kind)
  names = about.get('class_names', [])
  if not all(isinstance(name, str) for name in names):
    raise untrusted.UnreadableError('class_names are no texts')
  # Labels are only checked if the set names its classes.
  classes = len(names) if 'class_names' in about else math.inf
  labels = found.labels
  if labels.min(initial=-1) < -1 or labels.max(initial=-1) >= classes:
    raise untrusted.UnreadableError(
        f'labels are not those of {classes} classes'
    )
  counts = [len(x) for x in (features, labels, found.indices, found.names)]
  if about.get('format') != FORMAT or {*counts} != {about.get('images')}:
    raise untrusted.UnreadableError(
        f'it has {counts} features, labels, indices and names, its manifest '
        f'says {about.get("images")} (format {about.get("format")}, expected '
        f'{FORMAT})'
    )


def require(found: FeatureSet, *fields: str) -> None:
  """Raises FeaturesError if a set's manifest lacks an entry."""
  missing = [field for field in fields if field not in found.about]
  if missing:
    raise FeaturesError(
        f'{found.path} does not say its {", ".join(missing)}: make it again '
        f'{_HOW}'
    )


def _load_folder(path):
  about = untrusted.read_json(path / MANIFEST)
  read = lambda name: untrusted.load_array(path / name)
  names = untrusted.read_bytes(path / 'names.txt', untrusted.MAX_ARRAYS)
  return FeatureSet(
      untrusted.load_array(path / 'features.npy', mapped=True),
      read('labels.npy'), read('indices.npy'), Names(names), about, path,
  )


def _load_file(path):
  arrays = untrusted.load_arrays(path)
  about = untrusted.parse_json(str(arrays['manifest'].item()))
  return FeatureSet(
      arrays['features'], arrays['labels'], arrays['indices'],
      arrays['names'].tolist(),
      untrusted.take({'manifest': about}, 'manifest', dict), path,
  )
