"""Images for a trained network: those of its run, or any others."""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Sequence

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


@dataclasses.dataclass(frozen=True)
class Images:
  """A source's images as squares.

  Attributes:
    source: of the images.
    size: side of the squares, in pixels.
    aspect: how other images than prepared ones become squares, see
      `preprocessing.ASPECTS`.
  """

  source: Source
  size: int
  aspect: str

  def __len__(self):
    return len(self.source)

  @property
  def class_names(self) -> tuple[str, ...]:
    """The classes' names by label; none of photos without class folders."""
    return tuple(self.source.class_names)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """An image and its label.

    Args:
      index: of the image.

    Returns:
      ([size, size, 3] uint8, label, -1 where there is none).

    Raises:
      DataError: the image cannot be read; `ImageError` if that is its fault.
    """
    box = preprocessing.whole(self.size)
    if self.source.size is not None:
      return self.source.image(index, box)
    encoded, label = self.source.read(index)
    name = self.source.describe(index)
    return (
        preprocessing.to_square(
            encoded, name, aspect=self.aspect, box=box,
            background=self.source.background,
        ),
        label,
    )


def open_images(
    source: str,
    which: str = 'train',
    *,
    config: ml_collections.ConfigDict,
    aspect: str = 'keep',
    background: decoding.Background = decoding.WHITE,
    class_names: Sequence[str] | None = None,
) -> Images:
  """Opens images by the name that a user gives.

  Args:
    source: 'train' or 'evaluation' for the run's own; the path of a folder of
      photos or of class folders, of an archive of these, or of prepared data;
      'digits' or 'tfds:NAME'.
    which: the set, where a source other than the run's has two: one of SETS.
    config: of the run.
    aspect: of the run, see `Images`.
    background: of the run, see `decoding.decode`.
    class_names: see `open_sets`.

  Raises:
    DataError: there are no such images, or squares of another size than the
      run's; says what to do.
  """
  sets = open_sets(
      source, config=config, aspect=aspect, background=background,
      class_names=class_names,
  )
  found = sets.get(source if source in SETS else which)
  if found is None:
    raise DataError(
        f'{printable(source)} has no evaluation set: leave --set out for all '
        'of its images'
    )
  return found


def open_sets(
    source: str,
    *,
    config: ml_collections.ConfigDict,
    aspect: str = 'keep',
    background: decoding.Background = decoding.WHITE,
    class_names: Sequence[str] | None = None,
) -> dict[str, Images]:
  """Opens both sets of a source, or the one that it has: {'train': ...}.

  Args:
    source: as of `open_images`.
    config: likewise.
    aspect: likewise.
    background: likewise.
    class_names: of the data that the run was trained on, which its own images
      must have; None: whatever lies there is taken for them.

  Raises:
    DataError: as of `open_images`, or the run's classes are other ones now.
  """
  if source in SETS:
    pair = datasets.create_sources(config.dataset, config.seed)
    if class_names is not None:
      for one in pair:
        input_spec.check_classes(one, class_names)
  else:
    pair = _open(source)
    for one in pair:
      if one is not None:
        one.background = background
  size = config.dataset.size
  for one in pair:
    if one is not None and one.size not in (None, size):
      raise DataError(
          f'{one.name} has squares of {one.size} pixels, the run had {size}: '
          f'prepare with --size={size}, or give the images that it was '
          'prepared from'
      )
  return {
      name: Images(one, size, aspect)
      for name, one in zip(SETS, pair)
      if one is not None
  }


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
        f"{printable(source)} does not exist: wanted 'train' or 'evaluation' "
        "of the run, a folder, an archive, prepared data, 'digits' or "
        "'tfds:NAME'"
    ) from error


@functools.cache
def _scratch():
  """What a compressed archive is unpacked to is read until the end."""
  return tempfile.TemporaryDirectory(prefix='alexnet-')


def _loose_photos(path):
  """The photos of a folder without folders; None if it has some."""
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
