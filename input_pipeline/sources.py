"""Where encoded images and their labels come from.

A source has a length and `read(index)`; the order of its examples never changes
between two runs on the same data.
"""

import abc
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np
from PIL import Image

from input_pipeline.errors import DataError

EXTENSIONS = ('.jpeg', '.jpg', '.png')

# Archives that a user has to fetch himself, because their terms forbid others
# to hand them on.
_MANUAL = {
    'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
}


class Source(abc.ABC):
  """Encoded images with labels, by index.

  Attributes:
    name: for messages.
    class_names: the classes' names, in the order of their labels.
    directory: folder of the data, for caches beside it; None if it has none.
  """

  name: str
  class_names: Sequence[str]
  directory: pathlib.Path | None = None

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of examples."""

  @abc.abstractmethod
  def read(self, index: int) -> tuple[bytes, int]:
    """Returns an example's JPEG or PNG file and its label."""

  @abc.abstractmethod
  def describe(self, index: int) -> str:
    """Names an example for messages, by its file where it has one."""

  @abc.abstractmethod
  def fingerprint(self) -> str:
    """Changes when the examples change; a key for cached statistics."""

  def identity(self) -> str:
    """Says whether a run goes on with the data that it began with.

    Unlike the fingerprint it is the same for a copy elsewhere.
    """
    return self.fingerprint()


class Digits(Source):
  """Scikit-learn's 8 x 8 handwritten digits: 1,437 to train, 360 to test."""

  class_names = tuple('0123456789')
  _TRAIN = 1437

  def __init__(self, train: bool, seed: int):
    from sklearn import datasets  # Slow to import, and only needed here.

    self.name = f'digits ({"train" if train else "test"})'
    self._seed = seed
    digits = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    chosen = order[: self._TRAIN] if train else order[self._TRAIN :]
    # 17 grey levels; 15 * 17 = 255.
    images = np.minimum(digits.images[chosen] * 17, 255).astype(np.uint8)
    self._encoded = [_encode_png(image) for image in images]
    self._labels = digits.target[chosen]

  def __len__(self):
    return len(self._labels)

  def read(self, index):
    return self._encoded[index], int(self._labels[index])

  def describe(self, index):
    return f'{self.name}, example {index}'

  def fingerprint(self):
    return _digest(self.name, str(self._seed))


def _encode_png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


class Folder(Source):
  """Class subfolders of JPEG and PNG files."""

  def __init__(
      self,
      directory: pathlib.Path,
      class_names: Sequence[str],
      files: Sequence[tuple[str, int]],
  ):
    """Use `open_folder`.

    Args:
      directory: the folder that holds the class folders.
      class_names: their names, by label.
      files: (path relative to directory, label) of each example.
    """
    self.name = str(directory)
    self.directory = directory
    self.class_names = tuple(class_names)
    self._files = tuple(files)

  def __len__(self):
    return len(self._files)

  def read(self, index):
    path, label = self._files[index]
    try:
      return (self.directory / path).read_bytes(), label
    except OSError as error:
      raise DataError(
          f'cannot read {self.directory / path} ({error.strerror}): mend its '
          'permissions or remove it'
      ) from error

  def describe(self, index):
    return str(self.directory / self._files[index][0])

  def fingerprint(self):
    def state(path):
      stat = (self.directory / path).stat()
      return f'{path}\0{stat.st_size}\0{stat.st_mtime_ns}'

    return _digest(*(state(path) for path, _ in self._files))

  def identity(self):
    return _digest(*(f'{path}\0{label}' for path, label in self._files))


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
  files = []
  for name in found:
    images = _images_below(directory / name)
    if not images:
      raise DataError(
          f'class folder {directory / name} has no image '
          f'({", ".join(EXTENSIONS)}): add some or remove the folder'
      )
    label = class_names.index(name)
    files += [(str(path.relative_to(directory)), label) for path in images]
  return Folder(directory, class_names, files)


def _images_below(directory):
  images = []
  for parent, folders, names in os.walk(directory):
    folders[:] = [name for name in folders if not name.startswith('.')]
    images += [
        pathlib.Path(parent) / name
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith('.')
    ]
  return sorted(images)


def split_folder(
    folder: Folder, eval_fraction: float, seed: int
) -> tuple[Folder, Folder]:
  """Holds out a part of each class, chosen by seed.

  Args:
    folder: what `open_folder` returned.
    eval_fraction: share of each class to hold out, at least one image of it.
    seed: decides which.

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
  rng = np.random.default_rng(seed)
  train, held_out = [], []
  for label, name in enumerate(folder.class_names):
    files = [file for file in folder._files if file[1] == label]
    if len(files) < 2:
      raise DataError(
          f'class folder {folder.directory / name} has one image, too few to '
          'hold one out: add images or set --config.dataset.eval_dir'
      )
    count = min(max(1, round(eval_fraction * len(files))), len(files) - 1)
    chosen = set(rng.permutation(len(files))[:count].tolist())
    for index, file in enumerate(files):
      (held_out if index in chosen else train).append(file)
  make = functools.partial(Folder, folder.directory, folder.class_names)
  return make(train), make(held_out)


class TFDS(Source):
  """A classification dataset of TensorFlow Datasets, read at random."""

  def __init__(self, builder, split: str):
    import tensorflow_datasets as tfds

    features = builder.info.features
    self.name = f'{builder.info.full_name} ({split})'
    self.directory = pathlib.Path(builder.data_dir)
    names = features['label'].names
    classes = range(features['label'].num_classes)
    self.class_names = tuple(names or map(str, classes))
    self._data = builder.as_data_source(
        split, decoders={'image': tfds.decode.SkipDecoding()}
    )

  def __len__(self):
    return len(self._data)

  def read(self, index):
    example = self._data[index]
    return bytes(example['image']), int(example['label'])

  def describe(self, index):
    return f'{self.name}, example {index}'

  def fingerprint(self):
    return _digest(self.name, str(len(self)))


def _open_tfds(config):
  builder = _tfds_builder(config)
  _check_features(config, builder.info.features)
  _prepare(config, builder)
  for field in ('train_split', 'eval_split'):
    try:
      builder.info.splits[config[field]]
    except (KeyError, ValueError) as error:
      raise DataError(
          f"dataset.{field} is '{config[field]}', but '{config.name}' has "
          f'{sorted(map(str, builder.info.splits))}: set '
          f'--config.dataset.{field}'
      ) from error
  return TFDS(builder, config.train_split), TFDS(builder, config.eval_split)


def _tfds_builder(config):
  import tensorflow_datasets as tfds

  try:
    # Of the formats, only ArrayRecord can be read in any order.
    return tfds.builder(
        config.name, data_dir=config.dir, file_format='array_record'
    )
  except (tfds.core.DatasetNotFoundError, ValueError, TypeError) as error:
    if 'File format is already set' in str(error):
      raise DataError(
          f"dataset '{config.name}' lies in {config.dir or 'its place'} as "
          'TFRecord files, which cannot be read in any order: convert them to '
          'ArrayRecord (python -m tensorflow_datasets.scripts.convert_format),'
          ' or set --config.dataset.dir to another folder'
      ) from error
    raise DataError(
        f"dataset '{config.name}' is not known ({_first_line(error)}): wanted "
        "'digits', 'folder' or a name of TensorFlow Datasets"
    ) from error


def _check_features(config, features):
  import tensorflow_datasets as tfds

  if features is None or not {'image', 'label'} <= set(features):
    raise DataError(
        f"dataset '{config.name}' is not for image classification: it has "
        f"{sorted(features or ())}, wanted 'image' and 'label'"
    )
  if not isinstance(features['label'], tfds.features.ClassLabel):
    raise DataError(
        f"dataset '{config.name}' is not for image classification: its label "
        f"is {type(features['label']).__name__}, wanted ClassLabel"
    )


def _prepare(config, builder):
  root = pathlib.Path(builder._data_dir_root)
  manual = root / 'downloads' / 'manual'
  files = _MANUAL.get(config.name, ())
  # TFDS would prepare what is there, and take that for all from then on.
  prepared = pathlib.Path(builder.data_dir).exists()
  if not prepared and not all((manual / name).exists() for name in files):
    raise DataError(
        f"dataset '{config.name}' is not on this machine: put "
        f'{" and ".join(files)}, which image-net.org gives to registered '
        f'users, into {manual} and run this again (or set '
        '--config.dataset.dir to the folder that TensorFlow Datasets uses)'
    )
  try:
    builder.download_and_prepare()
  except Exception as error:  # TFDS and its network stack raise many kinds.
    advice = (
        f'check the files in {manual}' if files else 'check the network'
    )
    raise DataError(
        f"dataset '{config.name}' could not be prepared in {root} "
        f'({type(error).__name__}: {_first_line(error)}): {advice}, or set '
        '--config.dataset.dir to where it lies'
    ) from error


def _first_line(error):
  lines = str(error).strip().splitlines()
  return lines[0] if lines else type(error).__name__


def create_sources(
    config: ml_collections.ConfigDict, seed: int
) -> tuple[Source, Source]:
  """Opens the training and the evaluation set.

  Args:
    config: the `dataset` part of a config.
    seed: of the split, where the data has none of its own.

  Returns:
    (training source, evaluation source), with the same classes.

  Raises:
    DataError: the data is missing or unusable; says what to do.
  """
  if config.name == 'digits':
    return Digits(True, seed), Digits(False, seed)
  if config.name == 'folder':
    if not config.train_dir:
      raise DataError(
          "dataset.name is 'folder', but no folder is given: set "
          '--config.dataset.train_dir to one with a subfolder for each class'
      )
    train = open_folder(config.train_dir)
    if config.eval_dir:
      return train, open_folder(config.eval_dir, train.class_names)
    return split_folder(train, config.eval_fraction, seed)
  return _open_tfds(config)


def _digest(*parts: str) -> str:
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
