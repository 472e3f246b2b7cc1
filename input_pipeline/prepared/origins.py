"""Finds sets, classes and labels in the data to prepare."""

import functools
import pathlib
from collections.abc import Sequence

import ml_collections

from input_pipeline import datasets
from input_pipeline.errors import DataError, printable
from input_pipeline.files import listing
from input_pipeline.files import names as names_lib
from input_pipeline.files import paths as paths_lib
from input_pipeline.prepared import archives, label_files
from input_pipeline.sources import (
  COPIES,
  UNKNOWN_CLASS,
  Entry,
  Files,
  Folder,
  Source,
  images_below,
  look_into,
  open_folder,
  split_files,
)

# Fields in messages about TensorFlow Datasets, and the flags for them here.
_TFDS_FLAGS = {
    '--config.dataset.dir': '--data_dir',
    '--config.dataset.train_split': '--train_split',
    '--config.dataset.eval_split': '--eval_split',
}

_IMAGENET_TRAIN = 'ILSVRC2012_img_train.tar'
_IMAGENET_VALIDATION = 'ILSVRC2012_img_val.tar'


def open_origin(
    source: str,
    *,
    scratch: pathlib.Path,
    eval_source: str | None = None,
    eval_labels: str | None = None,
    eval_fraction: float = 0.1,
    seed: int = 0,
    copies: str = COPIES[0],
    data_dir: str | None = None,
    train_split: str = 'train',
    eval_split: str = 'validation',
) -> tuple[Source, Source | None]:
  """Opens a training set and, if there is one, an evaluation set.

  Args:
    source: 'digits', 'tfds:NAME', or a path: a folder or archive of class
      folders, a folder or archive with a folder for each set (train, val), a
      folder of IDX files, or ImageNet's training archive or the folder with it.
    scratch: folder for unpacked files.
    eval_source: path of the evaluation set, if it is elsewhere. Without class
      folders, its labels are in eval_labels.
    eval_labels: file with the labels of eval_source, see `label_files.read`, or
      ImageNet's development kit (ILSVRC2012_devkit_t12.tar.gz). Not needed for
      ImageNet-2012.
    eval_fraction: share of each class to hold out if there is no evaluation
      set, as in training from a folder; 0 for none. A class of one image keeps
      it.
    seed: selects the images to hold out.
    copies: see `sources.split_files`.
    data_dir: folder of TensorFlow Datasets.
    train_split: training split of TensorFlow Datasets.
    eval_split: evaluation split of TensorFlow Datasets.

  Raises:
    DataError: data is missing, or its sets, classes or labels are unclear.
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
        'dir': data_dir and str(data_dir),
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
  path = paths_lib.local(source, '--source')
  if (path / _IMAGENET_TRAIN).is_file():
    path /= _IMAGENET_TRAIN
  if path.name == _IMAGENET_TRAIN and not eval_source:
    eval_source = str(path.with_name(_IMAGENET_VALIDATION))
  if path.is_dir() and datasets.has_idx(path):
    if eval_source or eval_labels:
      raise DataError(
          f'{printable(str(path))} has IDX files, with an evaluation set of '
          'their own: leave --eval_source and --eval_labels out'
      )
    return datasets.open_idx(path)
  train, place = _open_train(path, scratch)
  if eval_source:
    place = paths_lib.local(eval_source, '--eval_source')
  if place:
    evaluation = _open_evaluation(place, scratch, train, eval_labels)
  elif eval_labels:
    raise DataError(
        f'{train.name} has no evaluation set for --eval_labels: '
        'give one with --eval_source'
    )
  elif eval_fraction:
    train, evaluation = split_files(
        train, eval_fraction, seed, single_images_stay=True, copies=copies
    )
  else:
    evaluation = None
  return train, evaluation if evaluation and len(evaluation) else None


def _open_train(path, scratch):
  """Returns (training set, place of the evaluation set or None).

  A place is the path of a folder, or files and the name of a folder in them.
  """
  if path.is_dir():
    beside = listing.LeftOut()
    names, others = listing.entries(path, beside)
    look = functools.cache(lambda name: look_into(path / name))
    sets = names_lib.find_sets(names, look, printable(str(path)))
    if not sets:
      return open_folder(path), None
    train = open_folder(path / sets[0])
    for name in others:
      beside.add(listing.suffix(name), name)
    _tell_folders(names, sets, beside)
    train.ignored.update(beside)
    return train, sets[1] and path / sets[1]
  files = _strip(_open_file(path, scratch))
  looks = _looks(files)
  sets = names_lib.find_sets(looks, looks.get, files.name)
  if not sets:
    return _by_class(files, None), None
  _tell_folders(looks, sets, files.ignored)
  for entry in files.entries:
    if '/' not in entry.path:
      files.ignored.add('image(s) beside the sets', entry.path)
  return _by_class(files, None, sets[0]), sets[1] and (files, sets[1])


def _tell_folders(names, sets, ignored):
  for name in names:
    if name not in sets:
      ignored.add('folder(s) beside the sets', name)


def _looks(files):
  """Returns {folder: its contents} for the first level of an archive."""
  looks = {}
  for entry in files.entries:
    name, *rest = entry.path.split('/')
    if rest:
      known = looks.get(name, names_lib.Looks())
      deep = len(rest) > 1
      looks[name] = names_lib.Looks(
          known.images or not deep, known.folders or deep,
          known.names.union(rest[:1] if deep else ()),
      )
  return looks


def _open_file(path, scratch):
  if not path.exists():
    raise DataError(
        f"{printable(str(path))} does not exist: expected a folder, an "
        "archive, 'digits' or 'tfds:NAME'"
    )
  if not archives.is_archive(path):
    raise DataError(
        f'{printable(str(path))} is neither a folder nor an archive: expected '
        '.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .zip'
    )
  files = archives.open_archive(path, scratch)
  if not files.entries:
    raise DataError(
        f'{files.name} has no image file: give another one'
        f'{f"; left out: {files.ignored}" if files.ignored else ""}'
    )
  return files


def _open_evaluation(place, scratch, train, eval_labels):
  folder = ''
  if isinstance(place, tuple):
    files, folder = place
    files = files.select(
        entry for entry in files.entries if entry.path.startswith(f'{folder}/')
    )
    files.ignored = listing.LeftOut()  # Counted for the training set.
  elif place.is_dir():
    ignored = listing.LeftOut()
    folders, _ = listing.entries(place, ignored)
    if not eval_labels and folders:
      return open_folder(place, train.class_names)
    ignored = listing.LeftOut()
    paths, = images_below([place], ignored, place)
    if not paths:
      raise DataError(
          f'{printable(str(place))} has no image file and no class '
          'folder: give another evaluation set'
      )
    files = Folder(
        place, (), [Entry(str(path.relative_to(place)), 0) for path in paths]
    )
    files.ignored = ignored
  else:
    files = _strip(_open_file(place, scratch), train.class_names)
  if eval_labels:
    path = paths_lib.local(eval_labels, '--eval_labels')
    named = label_files.read(path, files, train.class_names)
  elif any(
      '/' in entry.path.removeprefix(f'{folder}/') for entry in files.entries
  ):
    return _by_class(files, train.class_names, folder)
  else:
    named = label_files.of_imagenet(files)
  return _labelled(files, named, train.class_names)


def _strip(files: Files, class_names: Sequence[str] = ()) -> Files:
  """Removes folders around the whole archive, except class folders."""
  classes = names_lib.Names(class_names)
  entries = [(entry.path.split('/'), entry) for entry in files.entries]
  while (
      len({parts[0] for parts, _ in entries}) == 1
      and max(len(parts) for parts, _ in entries) > 2
      and classes.find(entries[0][0][0]) is None
  ):
    entries = [(parts[1:], entry) for parts, entry in entries]
  return files.select(
      entry._replace(path='/'.join(parts)) for parts, entry in entries
  )


def _by_class(
    files: Files, class_names: Sequence[str] | None, folder: str = ''
) -> Files:
  """Labels an archive's files by their subfolder of a folder."""
  prefix = f'{folder}/' if folder else ''
  of_set = [entry for entry in files.entries if entry.path.startswith(prefix)]
  # A link's target is read once, in its own folder.
  own = {entry.place for entry in of_set if not entry.linked}
  named = []
  for entry in of_set:
    name, separator, _ = entry.path.removeprefix(prefix).partition('/')
    if not separator:
      files.ignored.add('image(s) beside the class folders', entry.path)
    elif entry.linked and entry.place in own:
      files.ignored.add('linked image(s) that are read already', entry.path)
    else:
      own.add(entry.place)
      named.append((name, entry))
  found = sorted({name for name, _ in named})
  if class_names is None:
    names_lib.check_classes(
        found, files.name, 'class folder(s)',
        f'; left out: {files.ignored}' if files.ignored else '',
    )
    class_names = found
  return _labelled(files, named, class_names)


def _labelled(files, named, class_names):
  of_name = names_lib.labels_of(
      {name for name, _ in named}, class_names, files.name
  )
  for name, entry in named:
    if name not in of_name:
      files.ignored.add(UNKNOWN_CLASS, entry.path)
  selected = files.select(
      entry._replace(label=of_name[name])
      for name, entry in named if name in of_name
  )
  selected.class_names = tuple(class_names)
  return selected
