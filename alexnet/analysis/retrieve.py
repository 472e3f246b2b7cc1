"""Finds the images of a set that are most like a photo (paper §6.1).

  python -m alexnet.analysis.retrieve --workdir=RUN --features=features/train \
      --query=photo.jpg --output=neighbours.png

with the features that `alexnet.analysis.features` has written: those that are
nearest to the photo's by Euclidean distance or, with --bits=128, in the fewest
bits of a code that an autoencoder makes of them (§7). It is trained on first
use and kept with the features. The picture is that of the paper's Figure 4
(right): the query, then its neighbours.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from alexnet.runtime import compilation_cache, heap, settings
from input_pipeline import cli
from input_pipeline.errors import printable
from input_pipeline.files import paths

if TYPE_CHECKING:
  import numpy as np

  from alexnet.analysis.features.images import Images
  from alexnet.analysis.features.store import FeatureSet

# As in features/hashing.py, which imports JAX; and no codes.
_BITS = ('32', '64', '128', '256')
# Letters above a picture.
_TITLE = 20
_PICTURES = ('.png', '.jpg', '.svg', '.pdf')


@dataclasses.dataclass(frozen=True)
class Neighbour:
  """An image that was found.

  Attributes:
    row: in the set of features.
    name: in its source.
    label: name of its class; '' if it has none.
    distance: Euclidean, or bits that differ.
  """

  row: int
  name: str
  label: str
  distance: float


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the picture.

  Attributes:
    title: of the query.
    query: [height, width, 3] uint8.
    neighbours: pictures of them, nearest first.
    titles: theirs.
  """

  title: str
  query: 'np.ndarray'
  neighbours: 'Sequence[np.ndarray]'
  titles: Sequence[str]


def find(
    found: 'FeatureSet',
    queries: 'np.ndarray',
    count: int,
    bits: int | None = None,
) -> list[list[Neighbour]]:
  """The nearest images of each query.

  Args:
    found: the set to search.
    queries: [queries, ...] float32, features of the same layer.
    count: of neighbours, fewer if the set is smaller.
    bits: search by codes of so many; None: by Euclidean distance.

  Raises:
    FeaturesError: see `hashing.open_index`.
  """
  from alexnet.analysis.features import hashing, nearest

  queries = queries.reshape(len(queries), -1)
  count = min(count, len(found))
  if bits is None:
    distances, rows = nearest.Euclidean(found.vectors).search(
        queries, count
    )
  else:
    distances, rows = hashing.open_index(found, bits).search(queries, count)
  names = found.about['class_names']

  def neighbour(row, distance):
    label = int(found.labels[row])
    return Neighbour(
        row, found.names[row], names[label] if label >= 0 else '', distance
    )

  return [
      [*map(neighbour, of_one.tolist(), near.tolist())]
      for of_one, near in zip(rows, distances)
  ]


def pictures(
    found: 'FeatureSet', images: 'Images', neighbours: Sequence[Neighbour]
) -> 'list[np.ndarray]':
  """The neighbours' squares, [size, size, 3] uint8, from their source.

  Raises:
    FeaturesError: the source's images are other ones now.
    DataError: an image cannot be read.
  """
  from alexnet.analysis.features.store import FeaturesError

  squares = []
  for one in neighbours:
    index = int(found.indices[one.row])
    names = images.source.relative_name
    if index >= len(images) or printable(names(index)) != one.name:
      raise FeaturesError(
          f'{images.source.name} has other images than when {found.path} was '
          f'made ({one.name} was number {index}): make the features again'
      )
    squares.append(images.read(index)[0])
  return squares


def draw(rows: Sequence[Row], output: pathlib.Path) -> None:
  """Writes queries with their neighbours, a row each, as Figure 4 (right).

  Raises:
    ConfigError: the file is to be of an unknown type.
  """
  check_picture(output)
  import matplotlib  # Slow to import, and only needed here.

  matplotlib.use('agg')
  from matplotlib import pyplot

  from alexnet.visualization.images import plain

  columns = 1 + max(len(row.neighbours) for row in rows)
  figure, axes = pyplot.subplots(
      len(rows),
      columns,
      figsize=(1.35 * columns, 1.55 * len(rows)),
      squeeze=False,
      layout='constrained',
      # Apart, so that it is seen which one was asked for.
      gridspec_kw={'width_ratios': [1.15, *[1] * (columns - 1)]},
  )
  for line, row in zip(axes, rows):
    squares = [row.query, *row.neighbours]
    for axis, square, title in zip(line, squares, [row.title, *row.titles]):
      axis.imshow(square)
      axis.set_title(plain(title, _TITLE, keep_end=True), fontsize=7, pad=3)
    for axis in line:
      axis.axis('off')
    line[0].axis('on')
    line[0].set(xticks=(), yticks=())
    for spine in line[0].spines.values():
      spine.set_linewidth(2)
  output.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(output, dpi=130)
  pyplot.close(figure)


def check_picture(output: pathlib.Path) -> None:
  """Raises ConfigError for a file that no picture can be written to."""
  if output.suffix not in _PICTURES:
    raise ConfigError(
        f'--output is {output}: wanted a file that ends in one of '
        f'{", ".join(_PICTURES)}'
    )


def _describe(neighbour, bits):
  distance = (
      f'{neighbour.distance:.3f}' if bits is None
      else f'{neighbour.distance:.0f} bits'
  )
  return (distance, printable(neighbour.label), neighbour.name)


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.retrieve`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  output = values.output
  if output:
    check_picture(output)
  settings.fix()
  # JAX, which --help does not need.
  from alexnet.analysis import tables
  from alexnet.analysis.features import images as images_lib
  from alexnet.analysis.features import store

  heap.keep_freed()
  compilation_cache.use_cache()
  found = store.load(values.features)
  store.require(found, 'class_names', 'layer', 'set', 'source', 'step')
  # The features' own checkpoint, if no other one is named.
  step = found.about['step']
  if values.step not in (None, str(step)):
    raise store.FeaturesError(
        f'{found.path} is of step {step}, --step is {values.step}: leave it out'
    )
  network = run_flags.load_network(step)
  if network.fingerprint() != found.about['parameters']:
    raise store.FeaturesError(
        f'{found.path} was made by the network of {found.about["workdir"]}, '
        f'whose parameters are not those of {values.workdir}: give that run'
    )
  queries = network.features(values.query, found.about['layer'])
  bits = values.bits and int(values.bits)
  answers = find(found, queries, values.neighbours, bits)
  for query, neighbours in zip(values.query, answers):
    rows = tuple(_describe(one, bits) for one in neighbours)
    table = tables.Table(('distance', 'class', 'image'), rows)
    print(tables.to_text([(printable(str(query)), [table])]))
  if not output:
    return
  images = images_lib.open_images(
      found.about['source'],
      found.about['set'],
      config=network.config,
      aspect=network.inputs.aspect,
      background=network.inputs.background,
      class_names=network.inputs.class_names,
  )
  draw(
      [
          Row(
              query.name,
              square,
              pictures(found, images, neighbours),
              [one.label for one in neighbours],
          )
          for query, square, neighbours in zip(
              values.query, network.squares(values.query), answers
          )
      ],
      output,
  )


if __name__ == '__main__':
  run_flags.define()
  paths.define(
      'features', 'What alexnet.analysis.features has written.'
  )
  paths.define_several('query', None, 'A photo; of several, repeated.')
  flags.DEFINE_integer('neighbours', 6, 'Number to find.', lower_bound=1)
  flags.DEFINE_enum(
      'bits', None, _BITS, 'Search by codes of so many; unset: exact search.'
  )
  paths.define('output', 'Picture to write, such as a .png file.')
  flags.mark_flags_as_required(['features', 'query'])
  cli.run(main, finishes=True)
