"""Finds the images of a set nearest to a photo (paper §6.1).

  python -m alexnet.analysis.retrieve --workdir=RUN --features=features/train \
      --query=photo.jpg --output=neighbours.png

It searches features written by `alexnet.analysis.features` for those nearest to
the photo's by Euclidean distance, or with --bits=128 by the number of differing
bits of codes from an autoencoder (§7). The autoencoder is trained on first use
and stored with the features. The picture follows the paper's Figure 4 (right):
the query, then its neighbours.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from alexnet.analysis import tables
from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.errors import printable
from input_pipeline.files import paths

if TYPE_CHECKING:
  import numpy as np

  from alexnet.analysis.features.images import Images
  from alexnet.analysis.features.store import FeatureSet
  from alexnet.inference.predictor import TrainedNetwork

# As in features/hashing.py, which imports JAX.
_BITS = ('32', '64', '128', '256')
_PICTURES = ('.png', '.jpg', '.svg', '.pdf')


@dataclasses.dataclass(frozen=True)
class Neighbour:
  """A found image."""

  row: int  # Row in the set of features.
  name: str  # Name in its source.
  label: str  # Name of its class; '' if it has none.
  distance: float  # Euclidean, or number of differing bits.


def find(
    found: 'FeatureSet',
    queries: 'np.ndarray',
    count: int,
    bits: int | None = None,
) -> list[list[Neighbour]]:
  """Finds the nearest images of each query.

  Args:
    found: the set to search.
    queries: [queries, ...] float32, features of the same layer.
    count: number of neighbours; fewer if the set is smaller.
    bits: length of codes to search by; None for Euclidean distance.

  Raises:
    FeaturesError: see `hashing.open_index`.
  """
  from alexnet.analysis.features import hashing, nearest

  index = (
      nearest.Euclidean(found.vectors) if bits is None
      else hashing.open_index(found, bits)
  )
  distances, rows = index.search(
      queries.reshape(len(queries), -1), min(count, len(found))
  )
  # Images without a class have label -1, the last name.
  names = [*found.about['class_names'], '']
  return [
      [
          Neighbour(row, found.names[row], names[found.labels[row]], distance)
          for row, distance in zip(of_one, near)
      ]
      for of_one, near in zip(rows.tolist(), distances.tolist())
  ]


def pictures(
    found: 'FeatureSet', images: 'Images', neighbours: Sequence[Neighbour]
) -> 'list[np.ndarray]':
  """Reads the neighbours' squares, [size, size, 3] uint8, from their source.

  Raises:
    FeaturesError: the source's images have changed.
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
    squares.append(images.square(index))
  return squares


def check_picture(output: pathlib.Path) -> None:
  """Raises ConfigError unless a picture can be written to a file."""
  if output.suffix not in _PICTURES:
    raise ConfigError(
        f'--output is {output}: expected a file that ends in one of '
        f'{", ".join(_PICTURES)}'
    )


def _open(values) -> 'tuple[FeatureSet, TrainedNetwork]':
  """Opens the features selected by the flags, and their network."""
  from alexnet.analysis.features import store

  found = store.load(values.features)
  store.require(found, 'class_names', 'layer', 'set', 'source', 'step')
  # The default is the checkpoint of the features.
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
  return found, network


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.retrieve`."""
  output = flags.FLAGS.output
  if output:
    check_picture(output)
  values = run_flags.start(argv)
  found, network = _open(values)
  bits = values.bits and int(values.bits)
  queries = network.features(values.query, found.about['layer'])
  answers = find(found, queries, values.neighbours, bits)
  form = '{:.3f}' if bits is None else '{:.0f} bits'
  for query, neighbours in zip(values.query, answers):
    table = tables.Table(('distance', 'class', 'image'), tuple(
        (form.format(one.distance), printable(one.label), one.name)
        for one in neighbours
    ))
    print(tables.to_text([(printable(str(query)), [table])]))
  if not output:
    return
  # Slow to import.
  from alexnet.analysis.features import images as images_lib
  from alexnet.visualization import images as drawing

  images = images_lib.open_images(
      found.about['source'], found.about['set'], config=network.config,
      inputs=network.inputs,
  )
  squares = [
      [square, *pictures(found, images, neighbours)]
      for square, neighbours in zip(network.squares(values.query), answers)
  ]
  titles = [
      [query.name, *(one.label for one in neighbours)]
      for query, neighbours in zip(values.query, answers)
  ]
  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_bytes(drawing.rows(
      squares, titles, of_queries=True, kind=output.suffix[1:]
  ))


if __name__ == '__main__':
  run_flags.define()
  paths.define(
      'features', 'Features to search, written by alexnet.analysis.features.'
  )
  paths.define_several(
      'query', None, 'Photo to search for. Repeat it for several photos.'
  )
  flags.DEFINE_integer(
      'neighbours', 6, 'Number of images to find.', lower_bound=1
  )
  flags.DEFINE_enum(
      'bits', None, _BITS,
      'Search by binary codes of this many bits. Default: exact search.',
  )
  paths.define('output', 'Draw the results to this file, such as a .png file.')
  flags.mark_flags_as_required(['features', 'query'])
  cli.run(main, finishes=True)
