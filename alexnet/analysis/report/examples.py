"""What a network says of images: predictions and neighbours (Figure 4).

The parts of a report that need the trained network and its data. Images are
chosen by their places in the set, at equal distances, before anything is known
of them.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tqdm

from alexnet.analysis.report.page import Block, Card, Cards, Strips, Tile
from alexnet.inference.predictor import TrainedNetwork
from alexnet.visualization import charts
from alexnet.visualization import images as images_lib
from input_pipeline import preprocessing
from input_pipeline.errors import DataError, ImageError
from input_pipeline.sources import Source

# Figure 4 has eight images, and five with six neighbours.
PREDICTIONS, QUERIES, NEIGHBOURS = 8, 5, 6
# Pixels of an image on the page, two for one of a screen.
_CARD, TILE = 280, 180
# Images that could not be read and are named.
_ERRORS = 3


@dataclasses.dataclass(frozen=True)
class Shown:
  """A part of the page and the same as PNG files, {name: file}."""

  blocks: list[Block]
  files: dict[str, bytes]


def places(count: int, length: int) -> np.ndarray:
  """Places at equal distances in a set, the middles of as many parts of it."""
  count = min(count, length)
  return ((np.arange(count) + 0.5) * length / count).astype(np.int64)


class Reader:
  """The images of a set, as a network's pipeline reads them."""

  def __init__(self, source: Source, size: int):
    """Reads nothing yet.

    Args:
      source: the set.
      size: side of the squares, in pixels.
    """
    self.source = source
    self._box = preprocessing.whole(size)
    self.labels = np.full(len(source), -1, np.int64)

  def square(self, index: int) -> np.ndarray:
    """[size, size, 3] uint8; its label is then in `labels`."""
    image, self.labels[index] = self.source.image(int(index), self._box)
    return image

  def lazily(self, indices: Sequence[int]) -> list:
    """The same as functions, for `TrainedNetwork.stream`."""
    return [functools.partial(self.square, index) for index in indices]


  def chosen(self, count: int) -> tuple[list[int], np.ndarray, list[str]]:
    """Images at equal distances; the next one where one cannot be read.

    Args:
      count: images wanted.

    Returns:
      (their indices, [images, size, size, 3] uint8, what is to be said of each
      image that was left out).

    Raises:
      DataError: no image can be read, or the disk cannot.
    """
    indices, squares, left_out = [], [], []
    wanted = places(count, len(self.source))
    # From each place on, but not to the next one.
    for start, end in zip(wanted, [*wanted[1:], len(self.source)]):
      for index in range(start, end):
        try:
          squares.append(self.square(index))
        except ImageError as error:
          left_out.append(str(error))
          continue
        indices.append(index)
        break
    if not indices:
      raise DataError(f'no image of {self.source.name} can be read')
    return indices, np.stack(squares), left_out


def left_out_text(errors: Sequence[str]) -> list[Block]:
  """What is said of images that were left out; nothing if there are none."""
  if not errors:
    return []
  more = f' and {len(errors) - _ERRORS:,} more' if len(errors) > _ERRORS else ''
  return [
      f'{len(errors):,} {"image was" if len(errors) == 1 else "images were"} '
      f'left out: {"; ".join(errors[:_ERRORS])}{more}.'
  ]


def predictions(network: TrainedNetwork, reader: Reader) -> Shown:
  """Images of the evaluation set with the five most probable classes."""
  indices, squares, left_out = reader.chosen(PREDICTIONS)
  probabilities = network.predict(squares)
  labels = reader.labels[indices].tolist()
  names = network.class_names
  cards = [
      Card(
          Tile(jpeg(square, _CARD), names[label]),
          tuple((names[i], p, i == label) for i, p in best),
      )
      for square, best, label in zip(
          squares, images_lib.top(probabilities), labels
      )
  ]
  png = images_lib.predictions(squares, probabilities, labels, names)
  blocks = [Cards(tuple(cards)), *left_out_text(left_out)]
  return Shown(blocks, {'predictions': png})


def neighbours(
    network: TrainedNetwork,
    evaluation: Reader,
    train: Reader,
    *,
    limit: int,
) -> Shown:
  """Images of the evaluation set with the nearest ones of the training set.

  Nearest by Euclidean distance in the features of fc7 (paper §6.1), or, of
  another network, of what its last layer reads.

  Args:
    network: the network.
    evaluation: where the queries are from.
    train: where the neighbours are from.
    limit: training images to look at, at most.
  """
  from sklearn.neighbors import NearestNeighbors  # Slow to import.

  layer = 'fc7' if 'fc7' in network.layers else network.layers[-2]
  queries, squares, left_out = evaluation.chosen(QUERIES)
  candidates = places(limit, len(train.source))
  features, found = [], []
  for index, row in read_along(
      candidates,
      network.stream(train.lazily(candidates), layer=layer),
      f'{layer} of training images',
      left_out,
  ):
    features.append(np.ravel(row))
    found.append(index)
  wanted = network.features(squares, layer).reshape(len(squares), -1)
  # Exact: the sets are small, and the paper's distances are.
  search = NearestNeighbors(
      n_neighbors=min(NEIGHBOURS, len(found)), algorithm='brute'
  ).fit(np.stack(features))
  distances, nearest = search.kneighbors(wanted)
  strips, images, captions = [], [], []
  for query, square, row, apart in zip(queries, squares, nearest, distances):
    label = evaluation.labels[query]
    chosen = [found[i] for i in row]
    same = [train.labels[i] == label for i in chosen]
    name = network.class_names[label]
    images.append([square, *map(train.square, chosen)])
    captions.append([name, *(
        network.class_names[train.labels[i]] for i in chosen
    )])
    marks = ['', *('right' if s else 'wrong' for s in same)]
    strips.append((
        f'{name}: {sum(same)} of {len(same)} are of its class; distances '
        f'{apart[0]:.3g} to {apart[-1]:.3g}',
        tuple(
            Tile(jpeg(image, TILE), text, mark)
            for image, text, mark in zip(images[-1], captions[-1], marks)
        ),
    ))
  looked_at = f'{len(found):,} of {len(train.source):,} training images'
  if len(found) == len(train.source):
    looked_at = f'all {len(found):,} training images'
  text = (
      'The first image of each row is of the evaluation set, the others are '
      f'those of {looked_at} with the smallest Euclidean distance in the '
      f'{len(features[0]):,} features of {layer} (centre crop): in a green '
      "frame of the query's class, in a broken one of another."
  )
  png = images_lib.rows(images, captions)
  blocks = [text, Strips(tuple(strips), True), *left_out_text(left_out)]
  return Shown(blocks, {'neighbours': png})


def read_along(
    indices: Sequence[int],
    results: Iterable[np.ndarray | ImageError],
    description: str,
    left_out: list[str],
) -> Iterator[tuple[int, np.ndarray]]:
  """Pairs images with results, with a progress bar.

  Args:
    indices: of the images.
    results: of each, in the same order, as of `TrainedNetwork.stream`.
    description: of the bar.
    left_out: where to add what is to be said of each that could not be read.

  Yields:
    (index, result) of the images that could be read.

  Raises:
    DataError: there were none.
  """
  count = 0
  bar = tqdm.tqdm(zip(indices, results), description, len(indices), unit='img')
  for index, result in bar:
    if isinstance(result, ImageError):
      left_out.append(str(result))
      continue
    count += 1
    yield int(index), result
  if not count:
    raise DataError(f'none of the {len(indices)} images could be read')


def jpeg(square: np.ndarray, size: int) -> str:
  """An image as a data URL, its greater side in pixels at most `size`."""
  return charts.data_url('image/jpeg', images_lib.encode(square, 'JPEG', size))
