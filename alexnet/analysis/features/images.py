"""Opens images for a trained network: its run's own, or others."""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable

import ml_collections
import numpy as np

from alexnet.checkpointing import input_spec
from input_pipeline import datasets, preprocessing
from input_pipeline.errors import DataError, printable
from input_pipeline.files import listing, paths
from input_pipeline.images import decoding
from input_pipeline.prepared import origins, reader
from input_pipeline.sources import Entry, Folder, Source, is_image

SETS = ('train', 'evaluation')
NO_LABEL = -1


class Images:
  """A source's images as squares.

  Attributes:
    source: source of the images.
    labels: [images] int64; -1 for images not read yet, or without a class.
  """

  def __init__(
      self,
      source: Source,
      size: int,
      aspect: str = 'keep',
      *,
      border: int = 0,
      channels: int = 3,
  ):
    """Creates the images without reading them.

    Args:
      source: source of the images.
      size: side of the squares, in pixels.
      aspect: how images that are not prepared become squares, see
        `preprocessing.ASPECTS`.
      border: black pixels on each side of a square, part of its size.
      channels: 3 for RGB, or 1 for grey.
    """
    self.source = source
    self.labels = np.full(len(source), NO_LABEL, np.int64)
    self._box = preprocessing.whole(size - 2 * border)
    self._aspect = aspect
    self._framed = functools.partial(
        preprocessing.framed, border=border, channels=channels
    )

  def __len__(self):
    return len(self.source)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes by label; empty for photos without class folders."""
    return tuple(self.source.class_names)

  def square(self, index: int) -> np.ndarray:
    """Reads a square and stores its label in `labels`.

    Returns:
      [size, size, channels] uint8.

    Raises:
      DataError: the image cannot be read; `ImageError` if its file is bad.
    """
    index, source = int(index), self.source
    if source.size is not None:
      square, self.labels[index] = source.image(index, self._box)
    else:
      picture, self.labels[index] = source.picture(index)
      square = preprocessing.resized(
          picture, aspect=self._aspect, box=self._box
      )
    return self._framed(square)

  def lazily(self, indices: Iterable[int]) -> list[Callable[[], np.ndarray]]:
    """Returns functions that read squares, for `TrainedNetwork.stream`."""
    return [functools.partial(self.square, index) for index in indices]


def open_sets(
    source: str,
    *,
    config: ml_collections.ConfigDict,
    inputs: input_spec.Inputs | None = None,
) -> dict[str, Images]:
  """Opens images by their name on the command line.

  Args:
    source: 'train' or 'evaluation' for the run's own; the path of a folder of
      photos or of class folders, of an archive of these, or of prepared data;
      'digits'; or 'tfds:NAME'.
    config: config of the run.
    inputs: how the run prepared its images: it gives the aspect of others, and
      the classes that its own must have. None uses today's defaults and accepts
      any classes.

  Returns:
    {'train': ..., 'evaluation': ...}, or the only set of the source.

  Raises:
    DataError: there are no such images, their size differs from the run's, or
      the run's classes have changed; the message says what to do.
  """
  if source in SETS:
    pair = datasets.create_sources(config.dataset, config.seed)
    for one in pair if inputs else ():
      input_spec.check_classes(one, inputs.class_names)
  else:
    pair = [one for one in _open(source) if one is not None]
    for one in pair:
      one.background = inputs.background if inputs else decoding.WHITE
  dataset = config.dataset
  size = dataset.size - 2 * dataset.border
  for one in pair:
    if one.size not in (None, size):
      raise DataError(
          f'{one.name} has squares of {one.size} pixels, the run had {size}: '
          f'prepare with --size={size}, or give the images that it was '
          'prepared from'
      )
  create = functools.partial(
      Images, size=dataset.size, aspect=inputs.aspect if inputs else 'keep',
      border=dataset.border, channels=dataset.channels,
  )
  return {name: create(one) for name, one in zip(SETS, pair)}


def open_images(source: str, which: str = 'train', **options) -> Images:
  """Opens the source's only set, or else the set `which`; see `open_sets`."""
  sets = open_sets(source, **options)
  if (found := sets.get(source if source in SETS else which)) is None:
    raise DataError(
        f'{printable(source)} has no evaluation set: leave --set out for all '
        'of its images'
    )
  return found


def _open(source):
  path = paths.local(source, '--source')
  if reader.is_prepared(path):
    return reader.open_prepared(path)
  if path.is_dir() and (photos := _loose_photos(path)) is not None:
    return photos, None
  try:
    return origins.open_origin(
        source, scratch=pathlib.Path(_scratch().name), eval_fraction=0
    )
  except DataError as error:
    if path.exists() or source == 'digits' or source.startswith('tfds:'):
      raise
    raise DataError(
        f"{printable(source)} does not exist: expected 'train' or 'evaluation' "
        "of the run, a folder, an archive, prepared data, 'digits' or "
        "'tfds:NAME'"
    ) from error


@functools.cache
def _scratch():
  """Folder for unpacked archives, kept until the process ends."""
  return tempfile.TemporaryDirectory(prefix='alexnet-')


def _loose_photos(path):
  """The photos of a folder without subfolders, else None."""
  ignored = listing.LeftOut()
  folders, names = listing.entries(path, ignored)
  if folders:
    return None
  photos = [name for name in names if is_image(name)]
  for name in names:
    if not is_image(name):
      ignored.add(listing.suffix(name), name)
  if not photos:
    raise DataError(
        f'{printable(str(path))} has no image file: give another folder'
        f'{f"; left out: {ignored}" if ignored else ""}'
    )
  folder = Folder(path, (), [Entry(name, NO_LABEL) for name in photos])
  folder.ignored = ignored
  return folder
