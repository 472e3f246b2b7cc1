"""What data can be prepared from: finds the sets, classes and labels in it."""

import importlib.util
import io
import os
import pathlib
import re
import tarfile
from collections.abc import Sequence

import ml_collections

from input_pipeline import archives, datasets
from input_pipeline.errors import DataError, printable
from input_pipeline.sources import (
  Entry,
  Files,
  Folder,
  Source,
  is_image,
  open_folder,
  split_files,
)

# Names of the folders of sets; of several evaluation sets the first counts.
_TRAIN = ('train', 'training')
_EVALUATION = ('val', 'valid', 'validation', 'eval', 'evaluation', 'test')

_IMAGENET_TRAIN = 'ILSVRC2012_img_train.tar'
_IMAGENET_VALIDATION = 'ILSVRC2012_img_val.tar'
_IMAGENET_NAME = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')
# In the package of TensorFlow Datasets: a WordNet id for each image, in order.
_IMAGENET_LABELS = 'datasets/imagenet2012/validation_labels.txt'


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
  if source == 'digits':
    return datasets.Digits(True, seed), datasets.Digits(False, seed)
  if source.startswith('tfds:'):
    config = ml_collections.ConfigDict({
        'name': source.removeprefix('tfds:'),
        'dir': data_dir,
        'train_split': train_split,
        'eval_split': eval_split,
    })
    return datasets.open_tfds(config)
  path = pathlib.Path(source).expanduser()
  if (path / _IMAGENET_TRAIN).is_file():
    path /= _IMAGENET_TRAIN
  if path.name == _IMAGENET_TRAIN and not eval_source:
    eval_source = str(path.with_name(_IMAGENET_VALIDATION))
  sets = _open_sets(path, scratch)
  train = sets['train']
  if eval_source:
    eval_path = pathlib.Path(eval_source).expanduser()
    evaluation = _open_evaluation(eval_path, scratch, train, eval_labels)
  elif 'evaluation' in sets:
    evaluation = sets['evaluation']
  elif eval_fraction:
    train, evaluation = split_files(
        train, eval_fraction, seed, single_images_stay=True
    )
  else:
    evaluation = None
  return train, evaluation if evaluation and len(evaluation) else None


def _open_sets(path, scratch):
  """{'train': Files, maybe 'evaluation': Files}."""
  if path.is_dir():
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    train, evaluation = _sets_among(names)
    if not train:
      return {'train': open_folder(path)}
    sets = {'train': open_folder(path / train)}
    if evaluation:
      classes = sets['train'].class_names
      sets['evaluation'] = open_folder(path / evaluation, classes)
    return sets
  files = _strip(_open_file(path, scratch))
  tops = {entry.path.split('/')[0] for entry in files.entries}
  train, evaluation = _sets_among(tops)
  if not train:
    return {'train': _by_class(files, None)}
  sets = {'train': _by_class(files, None, train)}
  if evaluation:
    classes = sets['train'].class_names
    sets['evaluation'] = _by_class(files, classes, evaluation)
  return sets


def _sets_among(names):
  """The folders of the sets among those of a level; (None, None) if none."""
  train = next((name for name in _TRAIN if name in names), None)
  evaluation = next((name for name in _EVALUATION if name in names), None)
  return (train, evaluation) if train else (None, None)


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
    raise DataError(f'{files.name} has no JPEG or PNG file: give another one')
  return files


def _open_evaluation(path, scratch, train, eval_labels):
  if path.is_dir():
    if any(entry.is_dir() for entry in path.iterdir()) and not eval_labels:
      return open_folder(path, train.class_names)
    names = sorted(name for name in os.listdir(path) if is_image(name))
    files = Folder(path, (), [Entry(name, 0) for name in names])
  else:
    files = _strip(_open_file(path, scratch))
  if eval_labels is None and any('/' in e.path for e in files.entries):
    return _by_class(files, train.class_names)
  if eval_labels:
    names = _read_labels(pathlib.Path(eval_labels).expanduser(), len(files))
  else:
    names = _imagenet_labels(files)
  return _labelled(files, list(zip(names, files.entries)), train.class_names)


def _strip(files: Files) -> Files:
  """Without folders that all of an archive is in, but for class folders."""
  entries = [(entry.path.split('/'), entry) for entry in files.entries]
  while (
      len({parts[0] for parts, _ in entries}) == 1
      and min(len(parts) for parts, _ in entries) > 2
      and entries[0][0][0] not in _TRAIN
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
      names = path.read_text().split()
  except (OSError, UnicodeDecodeError, tarfile.TarError, KeyError) as error:
    raise DataError(
        f'cannot read the labels {printable(str(path))} ({error}): wanted a '
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

  with tarfile.open(path) as archive:
    member = lambda end: next(
        archive.extractfile(m).read()
        for m in archive.getmembers()
        if m.name.endswith(end)
    )
    meta = scipy_io.loadmat(io.BytesIO(member('meta.mat')), squeeze_me=True)
    truth = member('ILSVRC2012_validation_ground_truth.txt').decode().split()
  wnids = {
      int(synset['ILSVRC2012_ID']): str(synset['WNID'])
      for synset in meta['synsets']
  }
  return [wnids[int(number)] for number in truth]


def _imagenet_labels(files):
  """TensorFlow Datasets' copy of the labels, by the numbers in the names."""
  spec = importlib.util.find_spec('tensorflow_datasets')
  path = pathlib.Path(spec.submodule_search_locations[0]) / _IMAGENET_LABELS
  labels = path.read_text().split()
  names = []
  for entry in files.entries:
    match = _IMAGENET_NAME.fullmatch(entry.path)
    if not match or not 1 <= int(match[1]) <= len(labels):
      raise DataError(
          f'{files.name} has no class folders, and {printable(entry.path)} is '
          'not of ImageNet-2012: give the labels with --eval_labels'
      )
    names.append(labels[int(match[1]) - 1])
  return names
