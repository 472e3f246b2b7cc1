"""Opens the datasets that a config names."""

import contextlib
import hashlib
import os
import pathlib
import re
import threading

import ml_collections
import numpy as np
from PIL import Image

from input_pipeline.errors import DataError, printable
from input_pipeline.files import listing, paths, untrusted
from input_pipeline.files import names as names_lib
from input_pipeline.images import decoding, idx, limits
from input_pipeline.prepared import reader
from input_pipeline.sources import (
  Source,
  digest,
  encode_png,
  look_into,
  open_folder,
  split_files,
)

# Archives that users have to download themselves, because their terms forbid
# redistribution.
_MANUAL = {
    'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
}

# Where Debian's package dataset-fashion-mnist puts its files.
_FASHION_MNIST = pathlib.Path('/usr/share/datasets/fashion-mnist')
_CLASSES = {
    'fashion_mnist': (
        'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal',
        'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
    ),
}

# Names of data in IDX files; the last two can also be TensorFlow Datasets'.
_IN_IDX = ('idx', 'mnist', 'fashion_mnist')

# Default splits, and those of data without a validation set.
_SPLITS = ('train', 'validation')
_TEST_SPLITS = ('train', 'test')
# Seconds to wait for a server's answer.
_ANSWER = 10.0
# Default folder of TensorFlow Datasets.
_TFDS_DIR = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')


class Digits(Source):
  """Scikit-learn's 8 x 8 handwritten digits: 1,437 to train, 360 to test."""

  class_names = tuple('0123456789')
  _TRAIN = 1437

  def __init__(self, train: bool, seed: int):
    from sklearn import datasets  # Slow to import.

    self.name = f'digits ({"train" if train else "test"})'
    self._seed = seed
    digits = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    chosen = order[: self._TRAIN] if train else order[self._TRAIN :]
    # 17 grey levels; 15 * 17 = 255.
    images = np.minimum(digits.images[chosen] * 17, 255).astype(np.uint8)
    self._encoded = [encode_png(image) for image in images]
    self._labels = digits.target[chosen]

  def __len__(self):
    return len(self._labels)

  def read(self, index):
    return self._encoded[index], int(self._labels[index])

  def describe(self, index):
    return f'{self.name}, example {index}'

  def fingerprint(self):
    return digest(self.name, str(self._seed))


class IDX(Source):
  """A set of grey images from a pair of IDX files, as MNIST's."""

  def __init__(self, directory: pathlib.Path, set_name: str):
    """Use `open_idx` instead.

    Args:
      directory: folder of the files.
      set_name: key of `idx.SETS`.
    """
    self.name = f'{printable(str(directory))} ({idx.SETS[set_name]})'
    self.directory = directory
    paths = []
    for what, dimensions in (('images', 3), ('labels', 1)):
      path = idx.find(directory, set_name, what, dimensions)
      if path is None:
        raise DataError(
            f'{printable(str(directory))} has no '
            f'{idx.SETS[set_name]}-{what}-idx{dimensions}-ubyte, nor that with '
            '.gz: set --config.dataset.dir to the folder with the four files '
            'of MNIST or Fashion-MNIST'
        )
      paths.append(path)
    self._images, self.labels = idx.read(paths[0], 3), idx.read(paths[1], 1)
    if not len(self._images) == len(self.labels) > 0:
      raise DataError(
          f'{printable(str(paths[0]))} has {len(self._images):,} images and '
          f'{paths[1].name} {len(self.labels):,} labels: expected as many, and '
          'at least one'
      )
    limits.check_shape(*self._images.shape[:0:-1], str(paths[0]))

  def __len__(self):
    return len(self.labels)

  def read(self, index):
    return encode_png(self._images[index]), int(self.labels[index])

  def picture(self, index):
    image = Image.fromarray(self._images[index])
    return image.convert('RGB'), int(self.labels[index])

  def describe(self, index):
    return f'{self.name}, example {index}'

  def relative_name(self, index):
    return str(index)

  def fingerprint(self):
    content = hashlib.sha256(self._images)
    content.update(self.labels)
    return digest(str(self._images.shape), content.hexdigest())


def open_idx(directory: pathlib.Path, name: str = 'idx') -> tuple[IDX, IDX]:
  """Opens the IDX files of MNIST, Fashion-MNIST or data like them.

  Args:
    directory: folder with train-images-idx3-ubyte, train-labels-idx1-ubyte,
      t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each with .gz or not.
    name: 'fashion_mnist' for the names of its classes; others have the numbers
      of their labels.

  Raises:
    DataError: a file is missing or damaged, or the sets do not fit together.
  """
  train, evaluation = (IDX(directory, set_name) for set_name in idx.SETS)
  count = int(train.labels.max()) + 1
  names = _CLASSES.get(name, tuple(map(str, range(count))))
  most = max(count, int(evaluation.labels.max()) + 1)
  if most > len(names):
    raise DataError(
        f'{printable(str(directory))} has the label {most - 1}, expected '
        f'labels of the {len(names)} classes of '
        f"{'Fashion-MNIST' if name in _CLASSES else 'its training set'}"
    )
  train.class_names = evaluation.class_names = names
  return train, evaluation


def has_idx(directory: pathlib.Path) -> bool:
  """Returns whether a folder has a training set in IDX files."""
  return idx.find(directory, 'train', 'images', 3) is not None


def _import_tfds():
  # Imported late: it takes seconds, and TensorFlow has to be set up before.
  from input_pipeline.files.tensorflow_cpu import tf  # noqa: F401, I001
  import tensorflow_datasets

  return tensorflow_datasets


class TFDS(Source):
  """A classification dataset of TensorFlow Datasets, with random access."""

  def __init__(self, builder, split: str):
    tfds = _import_tfds()

    features = builder.info.features
    self.name = f'{builder.info.full_name} ({split})'
    self.directory = pathlib.Path(builder.data_dir)
    names = features['label'].names
    classes = range(features['label'].num_classes)
    self.class_names = tuple(names or map(str, classes))
    self._data = builder.as_data_source(
        split, decoders={'image': tfds.decode.SkipDecoding()}
    )

  def __reduce__(self):
    raise DataError(
        f'{self.name} is read by TensorFlow, which reading processes do not '
        'have: set --config.dataset.processes=0, or prepare the data (python '
        '-m input_pipeline.prepare) and train from that'
    )

  def __len__(self):
    return len(self._data)

  def read(self, index):
    example = self._data[index]
    return bytes(example['image']), int(example['label'])

  def describe(self, index):
    return f'{self.name}, example {index}'

  def fingerprint(self):
    return digest(self.name, str(len(self)))


def open_tfds(config: ml_collections.ConfigDict) -> tuple[TFDS, TFDS]:
  """Opens a dataset of TensorFlow Datasets, preparing it if necessary.

  Args:
    config: the `dataset` section of a config, or its fields name, dir,
      train_split and eval_split.

  Raises:
    DataError: the dataset is unknown, not for classification, or unavailable.
  """
  builder = _tfds_builder(config)
  _check_features(config, builder.info.features)
  _prepare(config, builder)
  known = builder.info.splits
  splits = {name: config[name] for name in ('train_split', 'eval_split')}
  default = _SPLITS[1]
  if splits['eval_split'] == default not in known and 'test' in known:
    # MNIST and CIFAR have no validation set: papers give their test error.
    splits['eval_split'] = 'test'
  for field, split in splits.items():
    try:
      known[split]
    except (KeyError, ValueError) as error:
      raise DataError(
          f"dataset.{field} is '{split}', but '{config.name}' has "
          f'{sorted(map(str, known))}: set --config.dataset.{field}'
      ) from error
  return tuple(TFDS(builder, split) for split in splits.values())


def _tfds_builder(config):
  # namespace:name; the version in mnist:3.0.1 begins with a digit.
  if re.match(r'[\w-]+:[A-Za-z]', config.name):
    raise DataError(
        f"dataset '{config.name}' is not known: expected 'digits', 'folder' or "
        'a name of TensorFlow Datasets itself; names with a namespace, for '
        'datasets of others, are not supported'
    )
  tfds = _import_tfds()

  try:
    # Only the ArrayRecord format has random access.
    return tfds.builder(
        config.name,
        data_dir=config.dir and str(paths.local(config.dir, 'dataset.dir')),
        file_format='array_record',
    )
  except (tfds.core.DatasetNotFoundError, ValueError, TypeError) as error:
    if 'File format is already set' in str(error):
      raise DataError(
          f"dataset '{config.name}' is in {config.dir or 'its place'} as "
          'TFRecord files, which cannot be read in any order: convert them to '
          'ArrayRecord (python -m tensorflow_datasets.scripts.convert_format),'
          ' or set --config.dataset.dir to another folder'
      ) from error
    raise DataError(
        f"dataset '{config.name}' is not known ({_first_line(error)}): "
        "expected 'digits', 'folder' or a name of TensorFlow Datasets"
    ) from error


def _check_features(config, features):
  tfds = _import_tfds()

  if features is None or not {'image', 'label'} <= set(features):
    raise DataError(
        f"dataset '{config.name}' is not for image classification: it has "
        f"{sorted(features or ())}, expected 'image' and 'label'"
    )
  if not isinstance(features['label'], tfds.features.ClassLabel):
    raise DataError(
        f"dataset '{config.name}' is not for image classification: its label "
        f"is {type(features['label']).__name__}, expected ClassLabel"
    )


def _prepare(config, builder):
  root = pathlib.Path(builder._data_dir_root)
  manual = root / 'downloads' / 'manual'
  files = _MANUAL.get(config.name, ())
  # TFDS would prepare a part of the files, and take it for all from then on.
  prepared = pathlib.Path(builder.data_dir).exists()
  if not prepared and not all((manual / name).exists() for name in files):
    raise DataError(
        f"dataset '{config.name}' is not on this machine: put "
        f'{" and ".join(files)}, which image-net.org gives to registered '
        f'users, into {manual} and run this again (or set '
        '--config.dataset.dir to the folder that TensorFlow Datasets uses)'
    )
  if not prepared and not files:
    _check_network(config, builder, root)
  try:
    builder.download_and_prepare()
  except Exception as error:  # TFDS and its network code raise many kinds.
    advice = (
        f'check the files in {manual}' if files else 'check the network'
    )
    raise DataError(
        f"dataset '{config.name}' could not be prepared in {root} "
        f'({type(error).__name__}: {_first_line(error)}): {advice}, or set '
        '--config.dataset.dir to where it is'
    ) from error


def _check_network(config, builder, root):
  """Raises DataError if the dataset cannot be downloaded.

  TensorFlow Datasets would retry for minutes before reporting it.
  """
  infos = builder.url_infos or {}
  addresses = [a for a in infos if a.startswith('http')]
  # Downloaded files are not downloaded again.
  if not addresses or _fetched(root / 'downloads', infos):
    return
  reason = ['no answer']

  def ask():
    import requests  # As TensorFlow Datasets does, with its proxies.

    try:
      requests.head(addresses[0], timeout=_ANSWER)
      reason.clear()
    except requests.exceptions.RequestException as error:
      reason[:] = [type(error).__name__]

  # Name resolution has no timeout of its own.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_ANSWER)
  if reason:
    raise DataError(
        f"dataset '{config.name}' is not in {root}, and cannot be fetched from "
        f'{addresses[0]} ({reason[0]}): check the network, or set '
        '--config.dataset.dir to where it is'
    )


def _fetched(downloads, infos):
  """Returns whether a file of the dataset is among the downloads."""
  names = [getattr(info, 'filename', None) for info in infos.values()]
  if any(name and (downloads / 'manual' / name).exists() for name in names):
    return True
  for note in downloads.glob('*.INFO'):  # Beside each file, with its URLs.
    with contextlib.suppress(OSError, ValueError):
      urls = untrusted.take(untrusted.read_json(note), 'urls', list)
      if any(a in urls for a in infos) and note.with_suffix('').exists():
        return True
  return False


def _first_line(error):
  lines = str(error).strip().splitlines()
  return lines[0] if lines else type(error).__name__


def create_sources(
    config: ml_collections.ConfigDict, seed: int
) -> tuple[Source, Source]:
  """Opens the training and the evaluation source.

  Args:
    config: the `dataset` section of a config.
    seed: seed of the split, if neither the data nor the config has one.

  Returns:
    (training source, evaluation source), with the same classes.

  Raises:
    DataError: the data is missing or unusable; the message says what to do.
  """
  sources = _open(config, seed)
  for source in sources:
    if not isinstance(source, reader.Prepared):
      source.background = config.background
    elif config.background not in (decoding.WHITE, source.background):
      raise DataError(
          f'dataset.background is {config.background}, but {source.name} was '
          f'prepared with {source.background}: leave the default, or prepare '
          'again with --background'
      )
  return sources


def _open(config, seed):
  if config.split_seed is not None:
    seed = config.split_seed
  if config.name == 'prepared':
    if not config.dir:
      raise DataError(
          "dataset.name is 'prepared', but no directory is given: set "
          '--config.dataset.dir to one that `python -m input_pipeline.prepare` '
          'has written'
      )
    return _open_prepared(paths.local(config.dir, 'dataset.dir'))
  if config.name == 'digits':
    return Digits(True, seed), Digits(False, seed)
  if config.name == 'idx':
    return _open_idx(config, _idx_directory(config))
  if config.name == 'folder':
    if not config.train_dir:
      raise DataError(
          "dataset.name is 'folder', but no folder is given: set "
          '--config.dataset.train_dir to one with a subfolder for each class'
      )
    _refuse_sets(paths.local(config.train_dir, 'dataset.train_dir'))
    train = open_folder(config.train_dir)
    if config.eval_dir:
      return train, open_folder(config.eval_dir, train.class_names)
    return split_files(
        train, config.eval_fraction, seed, copies=config.copies
    )
  place = paths.local(config.dir or _TFDS_DIR, 'dataset.dir')
  for directory in (place, place / 'prepared' / config.name):
    if reader.is_prepared(directory):
      if (config.train_split, config.eval_split) != _SPLITS:
        raise DataError(
            f'{directory} has prepared data, whose sets are fixed, but '
            f"dataset.train_split is '{config.train_split}' and eval_split "
            f"'{config.eval_split}': leave them as they are, or set "
            '--config.dataset.dir to a folder without prepared data'
        )
      return _open_prepared(directory)
  if config.name in _IN_IDX and (place := _idx_directory(config)):
    return _open_idx(config, place)
  return open_tfds(config)


def _open_idx(config, directory):
  if (config.train_split, config.eval_split) not in (_SPLITS, _TEST_SPLITS):
    raise DataError(
        f'{printable(str(directory))} has IDX files, whose sets are fixed, but '
        f"dataset.train_split is '{config.train_split}' and eval_split "
        f"'{config.eval_split}': leave them as they are"
    )
  return open_idx(directory, config.name)


def _idx_directory(config):
  """Returns the folder of the IDX files that a config means, or None."""
  if config.dir:
    place = paths.local(config.dir, 'dataset.dir')
    return place if config.name == 'idx' or has_idx(place) else None
  if config.name == 'idx':
    raise DataError(
        "dataset.name is 'idx', but no folder is given: set "
        '--config.dataset.dir to one with the four files of MNIST or data like '
        'it (train-images-idx3-ubyte, ...)'
    )
  if config.name == 'fashion_mnist' and has_idx(_FASHION_MNIST):
    return _FASHION_MNIST
  return None


def _refuse_sets(directory):
  if not directory.is_dir():
    return  # Reported elsewhere.
  names, _ = listing.entries(directory, listing.LeftOut())
  look = lambda name: look_into(directory / name)
  place = printable(str(directory))
  sets = [n for n in names if n.lower() in names_lib.SET_FOLDERS]
  if 1 < len(names) == len(sets) or names_lib.find_sets(names, look, place):
    shown = ', '.join(sets)
    raise DataError(
        f'{place} has the folders {shown}, which are sets, not classes: '
        'set --config.dataset.train_dir and eval_dir to them'
    )


def _open_prepared(directory):
  train, evaluation = reader.open_prepared(directory)
  if evaluation is None:
    raise DataError(
        f'{train.directory} has no evaluation set, which a run needs: prepare '
        'again with --eval_source or --eval_fraction'
    )
  return train, evaluation


