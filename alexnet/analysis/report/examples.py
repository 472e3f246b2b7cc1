"""Predictions and nearest neighbours of images (paper, Figure 4).

These parts of a report need the trained network and its data. Images are chosen
at equal distances in the set, independent of the results.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from alexnet.analysis.features import nearest
from alexnet.analysis.features.images import Images
from alexnet.analysis.report.page import Block, Card, Cards, Strips, Tile
from alexnet.inference.predictor import TrainedNetwork
from alexnet.visualization import charts
from alexnet.visualization import images as images_lib
from input_pipeline.errors import DataError, ImageError
from input_pipeline.files import streams

# Figure 4 has eight images, and five with six neighbours.
PREDICTIONS, QUERIES, NEIGHBOURS = 8, 5, 6
# Pixels of an image on the page, two per pixel of a screen.
_CARD, TILE = 280, 180
# Most unreadable images to name.
_ERRORS = 3


@dataclasses.dataclass(frozen=True)
class Shown:
  """A part of the page, and its pictures as PNG files {name: contents}."""

  blocks: list[Block]
  files: dict[str, bytes]


def places(count: int, length: int) -> np.ndarray:
  """Returns evenly spaced indices: the middles of equal parts of a set."""
  count = min(count, length)
  return ((np.arange(count) + 0.5) * length / count).astype(np.int64)


def chosen(
    images: Images, count: int
) -> tuple[list[int], np.ndarray, list[str]]:
  """Chooses evenly spaced images; the next one replaces an unreadable one.

  Returns:
    (indices of `count` images, [images, size, size, 3] uint8, messages about
    unreadable images).

  Raises:
    DataError: no image can be read, or the disk fails.
  """
  indices, squares, left_out = [], [], []
  wanted = places(count, len(images))
  # Tries each index up to the next chosen one.
  for start, end in zip(wanted, [*wanted[1:], len(images)]):
    for index in range(start, end):
      try:
        squares.append(images.square(index))
      except ImageError as error:
        left_out.append(str(error))
        continue
      indices.append(index)
      break
  if not indices:
    raise DataError(f'no image of {images.source.name} can be read')
  return indices, np.stack(squares), left_out


def left_out_text(errors: Sequence[str]) -> list[Block]:
  """Returns a text about unreadable images; empty if there are none."""
  if not errors:
    return []
  more = f' and {len(errors) - _ERRORS:,} more' if len(errors) > _ERRORS else ''
  return [
      f'{len(errors):,} {"image was" if len(errors) == 1 else "images were"} '
      f'left out: {"; ".join(errors[:_ERRORS])}{more}.'
  ]


def predictions(network: TrainedNetwork, images: Images) -> Shown:
  """Shows evaluation images with their five most probable classes."""
  indices, squares, left_out = chosen(images, PREDICTIONS)
  probabilities = network.predict(squares)
  labels = images.labels[indices].tolist()
  names = network.class_names
  cards = tuple(
      Card(
          Tile(jpeg(square, _CARD), names[label]),
          tuple((names[i], p, i == label) for i, p in best),
      )
      for square, best, label in zip(
          squares, images_lib.top(probabilities), labels
      )
  )
  png = images_lib.predictions(squares, probabilities, labels, names)
  return Shown([Cards(cards), *left_out_text(left_out)], {'predictions': png})


def neighbours(
    network: TrainedNetwork, evaluation: Images, train: Images, *, limit: int
) -> Shown:
  """Shows evaluation images with their nearest training images.

  Distances are Euclidean in the features of fc7 (paper §6.1), or in the input
  of another network's last layer. Searches `limit` training images.
  """
  layer = 'fc7' if 'fc7' in network.layers else network.layers[-2]
  queries, squares, left_out = chosen(evaluation, QUERIES)
  candidates = places(limit, len(train))
  found, features = zip(*read_along(
      candidates, network.stream(train.lazily(candidates), layer=layer),
      f'{layer} of training images', left_out,
  ))
  features = np.stack([*map(np.ravel, features)])
  distances, rows = nearest.Euclidean(features).search(
      network.features(squares, layer).reshape(len(squares), -1),
      min(NEIGHBOURS, len(found)),
  )
  strips, images, captions = [], [], []
  for query, square, row, apart in zip(queries, squares, rows, distances):
    label = evaluation.labels[query]
    near = [found[i] for i in row]
    images.append([square, *map(train.square, near)])
    labels = [label, *train.labels[near]]
    captions.append([network.class_names[i] for i in labels])
    marks = ['', *('right' if i == label else 'wrong' for i in labels[1:])]
    strips.append((
        f'{captions[-1][0]}: {marks.count("right")} of {len(near)} are of its '
        f'class; distances {apart[0]:.3g} to {apart[-1]:.3g}',
        tuple(
            Tile(jpeg(image, TILE), text, mark)
            for image, text, mark in zip(images[-1], captions[-1], marks)
        ),
    ))
  looked_at = f'{len(found):,} of {len(train):,} training images'
  if len(found) == len(train):
    looked_at = f'all {len(found):,} training images'
  text = (
      'The first image of each row is from the evaluation set. The others are '
      f'those of {looked_at} with the smallest Euclidean distance in the '
      f'{features.shape[1]:,} features of {layer} (centre crop). Images of the '
      "query's class have a solid green frame, others a dashed one."
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
  """Yields (index, result) of images, and shows progress.

  Messages about unreadable images are added to `left_out`.

  Raises:
    DataError: no image could be read.
  """
  count = 0
  pairs = zip(indices, results)
  for index, result in streams.progress(pairs, description, len(indices)):
    if isinstance(result, ImageError):
      left_out.append(str(result))
      continue
    count += 1
    yield int(index), result
  if not count:
    raise DataError(f'none of the {len(indices)} images could be read')


def jpeg(square: np.ndarray, size: int) -> str:
  """Encodes an image as a data URL, with sides of at most `size` pixels."""
  return charts.data_url('image/jpeg', images_lib.encode(square, 'JPEG', size))
