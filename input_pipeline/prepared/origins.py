"""What data can be prepared from: finds the sets, classes and labels in it."""

import importlib.util
import io
import os
import pathlib
import re
import tarfile
from collections.abc import Sequence

import ml_collections

from input_pipeline import datasets
from input_pipeline.errors import DataError, printable
from input_pipeline.files import untrusted
from input_pipeline.prepared import archives
from input_pipeline.sources import (
  EVALUATION_FOLDERS,
  TRAIN_FOLDERS,
  Entry,
  Files,
  Folder,
  Source,
  is_image,
  open_folder,
  split_files,
)

# What messages about TensorFlow Datasets name, and what it is called here.
_TFDS_FLAGS = {
    '--config.dataset.dir': '--data_dir',
    '--config.dataset.train_split': '--train_split',
    '--config.dataset.eval_split': '--eval_split',
}

_IMAGENET_TRAIN = 'ILSVRC2012_img_train.tar'
_IMAGENET_VALIDATION = 'ILSVRC2012_img_val.tar'
_IMAGENET_NAME = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')
# In the package of TensorFlow Datasets: a WordNet id for each image, in order.
_IMAGENET_LABELS = 'datasets/imagenet2012/validation_labels.txt'
# Bytes of the two files in ImageNet's development kit; what SciPy reads of the
# larger may be compressed, to a thousandth.
_LARGEST_MEMBER = 2**20


def open_origin(
    source: str,
    *,
    scratch: pathlib.Path,
    eval_source: str | None = None,
    eval_labels: str | None = None,
    eval_fraction: float = 0.1,
    seed: int = 0,
    data_dir: str | None = None,
    train_split: str = 'train',
    eval_split: str = 'validation',
) -> tuple[Source, Source | None]:
  """Opens a training set and, where there is one, an evaluation set.

  Args:
    source: 'digits', 'tfds:NAME', or the path of a folder or an archive of
      class folders, of a folder or an archive with a folder for each set
      (train, val), or of ImageNet's training archive or its folder.
    scratch: for what has to be unpacked.
    eval_source: path of the evaluation set, if it is elsewhere; may have no
      class folders, and has its labels in eval_labels then.
    eval_labels: a text file with a class name for each image of eval_source, in
      the order of their names, or ImageNet's development kit
      (ILSVRC2012_devkit_t12.tar.gz). Not needed for ImageNet-2012.
    eval_fraction: share of each class to hold out where there is no evaluation
      set, as in training from a folder; 0 for none. A class of one image keeps
      it.
    seed: decides which images are held out.
    data_dir: of TensorFlow Datasets.
    train_split: of TensorFlow Datasets.
    eval_split: of TensorFlow Datasets.

  Raises:
    DataError: it is not there, or its sets, classes or labels are unclear.
  """
  known = source == 'digits' or source.startswith('tfds:')
  if known and (eval_source or eval_labels):
    raise DataError(
        f"'{source}' has an evaluation set of its own: leave --eval_source and "
        '--eval_labels out'
    )
  if source == 'digits':
    return datasets.Digits(True, seed), datasets.Digits(False, seed)
  if source.startswith('tfds:'):
    config = ml_collections.ConfigDict({
        'name': source.removeprefix('tfds:'),
        'dir': data_dir,
        'train_split': train_split,
        'eval_split': eval_split,
    })
    try:
      return datasets.open_tfds(config)
    except DataError as error:
      message = str(error)
      for field, flag in _TFDS_FLAGS.items():
        message = message.replace(field, flag)
      raise DataError(message) from error
  path = pathlib.Path(source).expanduser()
  if (path / _IMAGENET_TRAIN).is_file():
    path /= _IMAGENET_TRAIN
  if path.name == _IMAGENET_TRAIN and not eval_source:
    eval_source = str(path.with_name(_IMAGENET_VALIDATION))
  train, place = _open_train(path, scratch)
  if eval_source:
    place = pathlib.Path(eval_source).expanduser()
  if place:
    evaluation = _open_evaluation(place, scratch, train, eval_labels)
  elif eval_labels:
    raise DataError(
        f'{train.name} has no evaluation set that --eval_labels could be of: '
        'give one with --eval_source'
    )
  elif eval_fraction:
    train, evaluation = split_files(
        train, eval_fraction, seed, single_images_stay=True
    )
  else:
    evaluation = None
  return train, evaluation if evaluation and len(evaluation) else None


def _open_train(path, scratch):
  """(training set, place of the evaluation set or None).

  A place is the path of a folder, or files and the name of a folder in them.
  """
  if path.is_dir():
    train, evaluation = _sets_among(
        {entry.name for entry in path.iterdir() if entry.is_dir()},
        lambda name: any(entry.is_dir() for entry in (path / name).iterdir()),
    )
    if not train:
      return open_folder(path), None
    return open_folder(path / train), evaluation and path / evaluation
  files = _strip(_open_file(path, scratch))
  parts = [entry.path.split('/') for entry in files.entries]
  with_folders = {names[0] for names in parts if len(names) > 2}
  train, evaluation = _sets_among(
      {names[0] for names in parts}, with_folders.__contains__
  )
  if not train:
    return _by_class(files, None), None
  return _by_class(files, None, train), evaluation and (files, evaluation)


def _sets_among(names, has_folders):
  """The folders of the sets among those of a level; (None, None) if none."""
  by_lower = {name.lower(): name for name in names}
  train, evaluation = (
      next((by_lower[name] for name in wanted if name in by_lower), None)
      for wanted in (TRAIN_FOLDERS, EVALUATION_FOLDERS)
  )
  # Alone and without classes in it, it is a class of trains.
  if not train or not (evaluation or has_folders(train)):
    return None, None
  return train, evaluation


def _open_file(path, scratch):
  if not path.exists():
    raise DataError(
        f"{printable(str(path))} does not exist: wanted a folder, an archive, "
        "'digits' or 'tfds:NAME'"
    )
  if not archives.is_archive(path):
    raise DataError(
        f'{printable(str(path))} is neither a folder nor an archive: wanted '
        '.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .zip'
    )
  files = archives.open_archive(path, scratch)
  if not files.entries:
    raise DataError(f'{files.name} has no image file: give another one')
  return files


def _open_evaluation(place, scratch, train, eval_labels):
  folder = ''
  if isinstance(place, tuple):
    files, folder = place
    files = files.select(
        entry for entry in files.entries if entry.path.startswith(f'{folder}/')
    )
  elif place.is_dir():
    if not eval_labels and _has_class_folders(place):
      return open_folder(place, train.class_names)
    names = sorted(name for name in os.listdir(place) if is_image(name))
    if not names:
      raise DataError(
          f'{printable(str(place))} has no image file and no class '
          'folder: give another evaluation set'
      )
    files = Folder(place, (), [Entry(name, 0) for name in names])
  else:
    files = _strip(_open_file(place, scratch))
  if not eval_labels and any(
      '/' in entry.path.removeprefix(f'{folder}/') for entry in files.entries
  ):
    return _by_class(files, train.class_names, folder)
  if eval_labels:
    names = _read_labels(pathlib.Path(eval_labels).expanduser(), len(files))
  else:
    names = _imagenet_labels(files)
  return _labelled(files, list(zip(names, files.entries)), train.class_names)


def _has_class_folders(path):
  return any(
      entry.is_dir() and not entry.name.startswith('.')
      for entry in path.iterdir()
  )


def _strip(files: Files) -> Files:
  """Without folders that all of an archive is in, but for class folders."""
  entries = [(entry.path.split('/'), entry) for entry in files.entries]
  while (
      len({parts[0] for parts, _ in entries}) == 1
      and min(len(parts) for parts, _ in entries) > 2
  ):
    entries = [(parts[1:], entry) for parts, entry in entries]
  return files.select(
      entry._replace(path='/'.join(parts)) for parts, entry in entries
  )


def _by_class(
    files: Files, class_names: Sequence[str] | None, folder: str = ''
) -> Files:
  """Labels an archive's files by their folder below a folder."""
  prefix = f'{folder}/' if folder else ''
  named = []
  for entry in files.entries:
    if entry.path.startswith(prefix):
      name, separator, _ = entry.path.removeprefix(prefix).partition('/')
      if separator:  # Images beside the class folders are of no class.
        named.append((name, entry))
  found = sorted({name for name, _ in named})
  if class_names is None:
    class_names = found
  if len(found) < 2:
    raise DataError(
        f'{files.name} has {len(found)} class folder(s): wanted at least 2, '
        'each with the images of one class'
    )
  return _labelled(files, named, class_names)


def _labelled(files, named, class_names):
  labels = {name: label for label, name in enumerate(class_names)}
  if unknown := sorted({name for name, _ in named} - set(labels)):
    raise DataError(
        f'{files.name} has classes that the training set does not have: '
        f'{", ".join(unknown[:5])}: give both sets the same classes'
    )
  selected = files.select(
      entry._replace(label=labels[name]) for name, entry in named
  )
  selected.class_names = tuple(class_names)
  return selected


def _read_labels(path, count):
  """The class names of count images."""
  try:
    if path.name.endswith('.tar.gz'):
      names = _read_devkit(path)
    else:
      # A class name may have spaces.
      lines = map(str.strip, untrusted.read_text(path).splitlines())
      names = [line for line in lines if line]
  except Exception as error:  # tarfile and SciPy raise many kinds.
    raise DataError(
        f'cannot read the labels {printable(str(path))} '
        f'({type(error).__name__}: {error}): wanted a '
        'text file with a class name for each image, or ImageNet\'s '
        'development kit'
    ) from error
  if len(names) != count:
    raise DataError(
        f'{printable(str(path))} has {len(names):,} labels, but there are '
        f'{count:,} images: wanted one for each'
    )
  return names


def _read_devkit(path):
  from scipy import io as scipy_io

  with tarfile.open(path, 'r:gz') as archive:
    names = {name.split('/')[-1]: name for name in archive.getnames()}
    read = lambda name: _member(archive, names[name])
    meta = scipy_io.loadmat(io.BytesIO(read('meta.mat')), squeeze_me=True)
    truth = read('ILSVRC2012_validation_ground_truth.txt').decode().split()
  wnids = {
      int(synset['ILSVRC2012_ID']): str(synset['WNID'])
      for synset in meta['synsets']
  }
  return [wnids[int(number)] for number in truth]


def _member(archive, name):
  member = archive.getmember(name)
  if member.size > _LARGEST_MEMBER:
    raise untrusted.UnreadableError(
        f'{printable(name)} has {member.size:,} bytes, wanted at most '
        f'{_LARGEST_MEMBER:,}'
    )
  return archive.extractfile(member).read()


def _imagenet_labels(files):
  """TensorFlow Datasets' copy of the labels, by the numbers in the names."""
  spec = importlib.util.find_spec('tensorflow_datasets')
  path = pathlib.Path(spec.submodule_search_locations[0]) / _IMAGENET_LABELS
  labels = path.read_text().split()
  names = []
  for entry in files.entries:
    match = _IMAGENET_NAME.fullmatch(entry.path.split('/')[-1])
    if not match or not 1 <= int(match[1]) <= len(labels):
      raise DataError(
          f'{files.name} has no class folders, and {printable(entry.path)} is '
          'not of ImageNet-2012: give the labels with --eval_labels'
      )
    names.append(labels[int(match[1]) - 1])
  return names
