"""Accuracy of each class, and confusions with example images."""

from collections.abc import Sequence

import numpy as np

from alexnet.analysis.features.images import Images
from alexnet.analysis.report import confusion, examples
from alexnet.analysis.report.examples import Shown
from alexnet.analysis.report.page import Block, Figures, Strips, Tile
from alexnet.analysis.tables import Table
from alexnet.inference.predictor import TrainedNetwork
from alexnet.visualization import charts, images
from alexnet.visualization.charts import Picture

# Number of confusions shown as images, and of images for each.
_PAIRS, _OF_PAIR = 6, 4
# Most classes named in a chart, and classes listed as best and worst beyond.
_NAMED, _LISTED = 32, 12
# Most classes for which numbers fit into a matrix.
_ROOMY = 12
# Most rows of a matrix on a screen.
_CELLS = 250


def classes(network: TrainedNetwork, reader: Images, *, limit: int) -> Shown:
  """Shows accuracy by class and confusions (centre crop).

  Args:
    network: the network.
    reader: images of the evaluation set.
    limit: largest number of images to use.

  Raises:
    DataError: none of the images can be read.
  """
  indices, left_out = examples.places(limit, len(reader)), []
  kept, guesses, certain = map(np.array, zip(*(
      (index, row.argmax(), row.max())
      for index, row in examples.read_along(
          indices, network.stream(reader.lazily(indices)), 'evaluation images',
          left_out,
      )
  )))
  names, labels = network.class_names, reader.labels[kept]
  table = confusion.count(labels, guesses, len(names))
  correct = np.trace(table.counts)
  of = f'{len(kept):,} of {len(reader):,}'
  if len(kept) == len(reader):
    of = f'all {len(kept):,}'
  blocks = [
      f'Of {of} evaluation images, {correct:,} are classified correctly, '
      f'{correct / len(kept):.2%} (centre crop, top-1).',
      *examples.left_out_text(left_out),
      Figures((_matrix(table, names), _accuracies(table, names))),
      *_best_and_worst(table, names),
  ]
  pairs = confusion.worst_pairs(
      table, labels, guesses, certain, pairs=_PAIRS, images=_OF_PAIR
  )
  if not pairs:
    return Shown([*blocks, 'No image was misclassified.'], {})
  squares = [[reader.square(kept[i]) for i in pair.images] for pair in pairs]
  blocks += [
      'The worst confusions, by their share of the true class, each with the '
      'images for which the network was most confident.',
      Strips(_strips(pairs, squares, certain, names)),
  ]
  captions = [
      [f'{names[pair.true]}\n→ {names[pair.predicted]}'] * len(pair.images)
      for pair in pairs
  ]
  return Shown(blocks, {'confusions': images.rows(squares, captions)})


def _strips(pairs, squares, certain, names):
  return tuple(
      (
          f'{names[pair.true]}, predicted as {names[pair.predicted]}: '
          f'{pair.count} of {pair.of} images ({pair.count / pair.of:.1%})',
          tuple(
              Tile(
                  examples.jpeg(square, examples.TILE),
                  f'{certain[i]:.0%} {names[pair.predicted]}',
              )
              for i, square in zip(pair.images, row)
          ),
      )
      for pair, row in zip(pairs, squares)
  )


def _matrix(table: confusion.Confusion, names: Sequence[str]) -> Picture:
  few = len(names) <= _NAMED
  side = 4.4 if len(names) <= _ROOMY else 6.8
  title = 'Confusion matrix: share of each true class'
  title += ', in %' if few else '; shades show its square root'
  cells = table.in_blocks(_CELLS)
  if len(cells) < len(names):
    block = -(-len(names) // len(cells))
    title += f'; a point is the largest share of {block} x {block} classes'
  draw = charts.matrix(
      cells, names if few else None, classes=len(names),
      xlabel='predicted class', ylabel='true class',
  )
  return charts.chart(
      'confusion', title,
      'A matrix of true classes, in rows, and predicted classes, in columns',
      draw, size=(side, side), room='wide' if side > charts.SIZE[0] else '',
  )


def _accuracies(table: confusion.Confusion, names: Sequence[str]) -> Picture:
  accuracies = table.accuracies
  order = _from_the_best(accuracies)
  width, height = charts.SIZE
  if len(names) <= _NAMED:
    draw = charts.bars(
        {names[i]: accuracies[i] for i in order}, xlabel='top-1 accuracy'
    )
    height = max(height, 0.27 * len(order) + 0.6)
  else:
    points = [*enumerate(accuracies[order].tolist(), 1)]
    draw = charts.lines(
        [charts.Line('classes', points, 0)], percent=True,
        xlabel='class, from the best to the worst', ylabel='top-1 accuracy',
    )
  return charts.chart(
      'per_class', 'Accuracy of each class',
      'The share of correctly classified images of each class, from '
      f'{accuracies[order[0]]:.0%} ({names[order[0]]}) to '
      f'{accuracies[order[-1]]:.0%} ({names[order[-1]]})',
      draw, size=(width, height),
  )


def _best_and_worst(
    table: confusion.Confusion, names: Sequence[str]
) -> list[Block]:
  """Lists the best and worst classes if a chart cannot name all."""
  if len(names) <= _NAMED:
    return []
  order = _from_the_best(table.accuracies)
  cells = lambda i: (names[i], f'{table.accuracies[i]:.1%}')
  rows = tuple(
      (*cells(best), *cells(worst))
      for best, worst in zip(order[:_LISTED], order[::-1][:_LISTED])
  )
  return [Table(('best', 'top-1', 'worst', 'top-1'), rows)]


def _from_the_best(accuracies):
  known = np.flatnonzero(~np.isnan(accuracies))
  return known[np.argsort(-accuracies[known], kind='stable')]
