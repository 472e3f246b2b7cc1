"""Reads files of labels, for images without class folders."""

import csv
import importlib.util
import io
import pathlib
import re
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

from input_pipeline.errors import DataError, printable
from input_pipeline.files import names as names_lib
from input_pipeline.files import untrusted
from input_pipeline.sources import Entry, Files

_IMAGENET_NAME = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')
# In TensorFlow Datasets' package: a WordNet id per image, in order.
_IMAGENET_LABELS = 'datasets/imagenet2012/validation_labels.txt'
# Most bytes of a file in ImageNet's development kit; SciPy may decompress the
# larger one, to a thousand times its size.
_LARGEST_MEMBER = 2**20

_DELIMITERS = '\t;,|:'
# Most columns searched, and characters of a label in a message.
_MOST_COLUMNS = 20
_SHOWN = 60
_WANTED = (
    "expected a line for each image with a class of the training set: 'ant', "
    "in the order of the images' names; or 'x.jpg ant'; or CSV with columns of "
    'file names and classes'
)

Labelled = list[tuple[str, Entry]]


class _Row(NamedTuple):
  line: int
  file: str | None
  label: str


def read(
    path: pathlib.Path, files: Files, class_names: Sequence[str]
) -> Labelled:
  """Labels images from a text, or from ImageNet's development kit.

  Each line of a text is a class, in the order of the images' names, or an image
  name and a class: separated by blanks (Caffe), or as columns of a CSV file
  with commas, semicolons or tabs, with or without a header.

  Args:
    path: the file.
    files: the images. Its `ignored` counts images without a label, and labels
      without an image.
    class_names: classes of the training set.

  Returns:
    [(class, image)].

  Raises:
    DataError: the file cannot be read, or does not fit the images and classes;
      the message names the line.
  """
  place, paths = printable(str(path)), [entry.path for entry in files.entries]
  images, classes = _Images(paths), names_lib.Names(class_names)
  try:
    if path.name.endswith('.tar.gz'):
      labels = _read_devkit(path)
      forms = [[_Row(n, None, label) for n, label in enumerate(labels, 1)]]
    else:
      lines = names_lib.read_lines(path)
      forms = [*_texts(lines), *_tables(lines, images, classes)]
  except Exception as error:  # tarfile, csv and SciPy raise many kinds.
    raise DataError(
        f'cannot read the labels {printable(str(path))} '
        f'({type(error).__name__}: {error}): expected a UTF-8 text with a '
        "class name for each image, or ImageNet's development kit"
    ) from error

  def is_here(row):
    return row.file is not None and images.find(row.file) is not None

  def fits(row):
    known = row.file is None or is_here(row)
    return known and classes.find(row.label) is not None

  # The best fit; among equals one with image names, or else the first.
  rows = max(forms, key=lambda rows: (
      sum(map(fits, rows)), sum(map(is_here, rows))
  ))
  if not any(map(fits, rows)):
    _refuse_files(forms, place, images, classes)
  if rows and rows[0].file is not None:
    return _by_name(rows, place, files, images, classes, class_names)
  if len(rows) == len(paths) + 1 and [*map(fits, rows[:2])] == [False, True]:
    rows = rows[1:]  # A header.
  if len(rows) != len(paths):
    raise DataError(
        f'{place} has {len(rows):,} labels, but there are {len(paths):,} '
        f'images: {_WANTED}{_first_misfit(rows, fits)}'
    )
  _check_known(rows, fits, place)
  return [
      (class_names[classes.find(row.label)], entry)
      for row, entry in zip(rows, files.entries)
  ]


def _by_name(rows, place, files, images, classes, class_names):
  """Returns the labels of the images named in rows."""
  if images.find(rows[0].file) is None and classes.find(rows[0].label) is None:
    rows = rows[1:]  # A header.
  here = []
  for row in rows:
    if images.is_ambiguous(row.file):
      raise _ambiguous(row, place)
    if images.find(row.file) is None:
      files.ignored.add('label(s) without an image', row.file)
    else:
      here.append(row)
  _check_known(here, lambda row: classes.find(row.label) is not None, place)
  labels = {}
  for row in here:
    index, label = images.find(row.file), classes.find(row.label)
    if labels.setdefault(index, label) != label:
      raise DataError(
          f'{place} has {_shown(row.file)} with another class in line '
          f'{row.line:,}: expected one for each image'
      )
  named = []
  for index, entry in enumerate(files.entries):
    if index in labels:
      named.append((class_names[labels[index]], entry))
    else:
      files.ignored.add('image(s) without a label', entry.path)
  return named


def _refuse_files(forms, place, images, classes):
  """Raises DataError if rows name files that do not exist."""
  named = [
      row for rows in forms for row in rows
      if row.file is not None and classes.find(row.label) is not None
  ]
  for row in named:
    if images.is_ambiguous(row.file):
      raise _ambiguous(row, place)
  if named:
    raise DataError(
        f'{place} has no file name of an image: line {named[0].line:,} has '
        f'{_shown(named[0].file)}, the first image is '
        f'{_shown(images.first)}: {_WANTED}'
    )


def _ambiguous(row, place):
  return DataError(
      f'{place} has {_shown(row.file)} in line {row.line:,}, which is the name '
      'of several images: write their paths'
  )


def _check_known(rows, fits, place):
  unknown = [row for row in rows if not fits(row)]
  if unknown:
    row = unknown[0]
    if not row.label:
      raise DataError(
          f'{place} has no class in line {row.line:,}: expected one in each'
      )
    numbers = all(row.label.isdecimal() for row in unknown)
    raise DataError(
        f'{place} has classes that the training set does not have: '
        f'{_shown(row.label)} (line {row.line:,}): {_WANTED}'
        f'{"; numbers of classes are not read" if numbers else ""}'
    )


def _first_misfit(rows, fits):
  for row in rows:
    if not fits(row):
      return f'; line {row.line:,} has {_shown(row.label)}'
  return ''


def _shown(text):
  return printable(text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...')


class _Images:
  """Finds images by the names used in a file."""

  def __init__(self, paths):
    names = [path.split('/')[-1] for path in paths]
    self._paths = names_lib.Names(paths)
    self._names = names_lib.Names(names)
    self._stems = names_lib.Names([n.rpartition('.')[0] for n in names])
    self.first = paths[0] if paths else 'missing'

  def find(self, text):
    path = text.strip().replace('\\', '/').removeprefix('./')
    if (found := self._paths.find(path)) is not None:
      return found
    name = path.split('/')[-1]
    found = self._names.find(name)
    return self._stems.find(name) if found is None else found

  def is_ambiguous(self, text):
    """Returns whether a name without a folder fits several images."""
    several = text in self._names or text in self._stems
    return several and self.find(text) is None


def _texts(lines):
  """Interpretations of lines without columns, each a list of rows."""
  filled = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
  yield [_Row(n, None, names_lib.unquoted(line)) for n, line in filled]
  for split in (str.split, str.rsplit):
    parts = [(n, split(line, None, 1)) for n, line in filled]
    yield [
        _Row(n, *map(names_lib.unquoted, pair))
        for n, pair in parts if len(pair) == 2
    ]


def _tables(lines, images, classes):
  """Interpretations of CSV lines, for each delimiter in them."""
  for delimiter in _DELIMITERS:
    if not any(delimiter in line for line in lines):
      continue
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
      table = [(reader.line_num, fields) for fields in reader if any(fields)]
    except csv.Error:  # An unclosed quote belongs to another format.
      continue
    columns = range(min(
        _MOST_COLUMNS, max((len(fields) for _, fields in table), default=0)
    ))
    if len(columns) < 2:
      continue
    label = _best(table, columns, classes)
    file = _best(table, [n for n in columns if n != label], images)
    yield [
        _Row(n, fields[file].strip(), fields[label].strip())
        for n, fields in table if len(fields) > max(file, label)
    ]


def _best(table, columns, names):
  """Returns the column with the most known names."""
  fits = lambda column: sum(
      len(fields) > column and names.find(fields[column]) is not None
      for _, fields in table
  )
  return max(columns, key=fits)


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
        f'{printable(name)} has {member.size:,} bytes, expected at most '
        f'{_LARGEST_MEMBER:,}'
    )
  return archive.extractfile(member).read()


def of_imagenet(files: Files) -> Labelled:
  """Labels ImageNet-2012's validation images by the numbers in their names.

  The labels are TensorFlow Datasets' copy.

  Raises:
    DataError: an image has a different name.
  """
  spec = importlib.util.find_spec('tensorflow_datasets')
  path = pathlib.Path(spec.submodule_search_locations[0]) / _IMAGENET_LABELS
  labels = path.read_text().split()
  named = []
  for entry in files.entries:
    match = _IMAGENET_NAME.fullmatch(entry.path.split('/')[-1])
    if not match or not 1 <= int(match[1]) <= len(labels):
      raise DataError(
          f'{files.name} has no class folders, and {printable(entry.path)} is '
          'not of ImageNet-2012: give the labels with --eval_labels'
      )
    named.append((labels[int(match[1]) - 1], entry))
  return named
