"""Compares dense views with crops and ten views (docs/dense.md).

  python -m alexnet.analysis.paper.dense_table --workdir=RUN --output=dense.md

It evaluates a run on its whole evaluation set and measures three things: how
far a position of the dense map is from a crop of the same pixels; how accurate
dense views are at each of --scales and at several together, compared with ten
views; and the effect of the subtracted mean. Accuracy differences are for the
same images, with 95 % intervals.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from alexnet.analysis.tables import Table, show
from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.files import paths

if TYPE_CHECKING:
  import numpy as np

  from alexnet.evaluation.evaluator import Predictions
  from alexnet.evaluation.session import Session
  from alexnet.inference.predictor import TrainedNetwork
  from alexnet.metrics.console import Console

_SCALES = ('224', '256', '288', '320')
# Standard deviations of a 95 % interval.
_DEVIATIONS = 1.96


@dataclasses.dataclass(frozen=True)
class Places:
  """Predictions at all positions of squares, without mirror images.

  All arrays but the labels are probabilities, [images, positions down,
  positions across, classes] float32.
  """

  dense: 'np.ndarray'  # Of the dense map.
  crops: 'np.ndarray'  # Of crops of the same pixels, minus the same mean.
  centre_mean: 'np.ndarray'  # ... minus the mean image's centre (run #145).
  colour: 'np.ndarray'  # Of the dense map, minus the mean colour.
  labels: 'np.ndarray'  # [images] int32.
  distance: int  # Between neighbouring positions, in pixels.


class Row(NamedTuple):
  """Predictions for all images with one kind of views."""

  name: str
  predictions: 'Predictions'  # In the same order in all rows.
  crops: float  # Pixels that the convolutions read per image, in crops.


def places(
    network: 'TrainedNetwork', session: 'Session', console: 'Console'
) -> Places:
  """Predicts at all positions of the squares of a run's evaluation set."""
  import numpy as np

  crop = network.config.augmentation.crop_size
  distance = network.model.stride
  count = (network.size - crop) // distance + 1
  ways = _ways(network, [distance * place for place in range(count)])
  batch_size = max(1, network.config.evaluation_batch_size // count**2)
  parts = {name: [] for name in ways}
  labels, total = [], len(session.task.evaluation)
  with console.bar('places', total) as bar:
    for batch in session.task.pipeline.evaluation_batches(batch_size):
      real = batch['weight'] > 0
      for name, way in ways.items():
        step = network.compiled(f'places, {name}', way)
        parts[name].append(np.asarray(step(batch['image']))[real])
      labels.append(batch['label'][real])
      bar.update(len(labels[-1]))
  return Places(
      **{name: np.concatenate(some) for name, some in parts.items()},
      labels=np.concatenate(labels),
      distance=distance,
  )


def _ways(network, offsets):
  """Returns {attribute of `Places`: function of (variables, squares, views)}.

  Args:
    network: the network.
    offsets: offsets of the positions in each direction, in pixels.
  """
  import jax
  import jax.numpy as jnp

  from alexnet import models

  everywhere = models.everywhere(network.model)
  crop, count = network.config.augmentation.crop_size, len(offsets)
  border = (network.size - crop) // 2

  def cut(x):
    places = [
        x[..., top : top + crop, left : left + crop, :]
        for top in offsets for left in offsets
    ]
    return jnp.stack(places, axis=-4)

  def of_maps(variables, x):
    return jax.nn.softmax(everywhere.apply(variables, x))

  def of_crops(variables, x):
    flat = x.reshape(-1, *x.shape[2:])
    found = jax.nn.softmax(network.model.apply(variables, flat))
    return found.reshape(len(x), count, count, -1)

  def less_centre(params, x, views):
    centre = views.mean_image[border : border + crop, border : border + crop]
    return of_crops(params, cut(x.astype(jnp.float32)) - centre)

  return {
      'dense': lambda p, x, views: of_maps(p, x - views.mean_image),
      'crops': lambda p, x, views: of_crops(p, cut(x - views.mean_image)),
      'centre_mean': less_centre,
      'colour': lambda p, x, views: of_maps(
          p, x - views.mean_image.mean((0, 1))
      ),
  }


def deviations(found: Places) -> Table:
  """Tabulates differences between positions and crops, in percentage points."""
  import numpy as np

  pairs = [
      ('position and crop', found.dense, found.crops),
      ("crop, and crop less the mean image's centre", found.crops,
       found.centre_mean),
  ]
  if found.crops.shape[2] > 1:
    pairs.append((
        f'crops {found.distance} pixels apart, sideways',
        found.crops[:, :, :-1], found.crops[:, :, 1:],
    ))
  rows = []
  for name, one, other in pairs:
    change = 100 * np.abs(one - other).max(-1)
    numbers = change.mean(), *np.percentile(change, (50, 95, 100))
    same = (one.argmax(-1) == other.argmax(-1)).mean()
    rows.append((name, *(f'{x:.1f}' for x in numbers), f'{same:.1%}'))
  headings = (
      'largest change of a class, points', 'mean', 'median', '95 % are below',
      'largest', 'same best class',
  )
  return Table(headings, tuple(rows))


def means(found: Places) -> list[Row]:
  """Averages dense views after subtracting the mean image or mean colour."""
  import numpy as np

  from alexnet.evaluation.evaluator import Predictions

  of = {'the mean image': found.dense, 'the mean colour': found.colour}
  views = found.dense.shape[1] * found.dense.shape[2]
  return [
      Row(name, Predictions(np.log(maps.mean((1, 2))), found.labels, views), 0)
      for name, maps in of.items()
  ]


def rows(
    session: 'Session', scales: Sequence[int], console: 'Console'
) -> list[Row]:
  """Predicts with crops, dense views, and dense views at several scales.

  The rows are ten views, the centre crop, each scale, and the first two, three,
  ... scales together.
  """
  from alexnet.evaluation import dense_views

  ten = session.predict('ten')
  found = [
      Row('ten views', ten, ten.views),
      Row('centre crop', session.predict('centre'), 1),
  ]
  crop = session.config.augmentation.crop_size
  mirrored = 1 + session.config.augmentation.flip
  of_scales = [
      Row(f'dense, {scale}', dense_views.predict(session, (scale,), console),
          mirrored * (scale / crop) ** 2)
      for scale in scales
  ]
  found += of_scales
  for count in range(2, len(scales) + 1):
    some = of_scales[:count]
    found.append(Row(
        'dense, ' + ' + '.join(map(str, scales[:count])),
        dense_views.mean([row.predictions for row in some]),
        sum(row.crops for row in some),
    ))
  return found


def table(found: Sequence[Row]) -> Table:
  """Tabulates results, with the difference of each row from the first."""
  import numpy as np

  from alexnet.evaluation import evaluator

  def right(row):
    best = row.predictions.log_probabilities.argmax(-1)
    return (best == row.predictions.labels).astype(np.float64)

  lines = []
  for row in found:
    result = evaluator.score(row.predictions)
    difference = 100 * (right(row) - right(found[0]))
    around = _DEVIATIONS * difference.std() / np.sqrt(len(difference))
    cells = [
        row.name, *(f'{result[name]:.2%}' for name in ('top1', 'top5')),
        f'{result["loss"]:.4f}',
        '' if row is found[0] else f'{difference.mean():+.2f} ± {around:.2f}',
    ]
    if row.crops:
      cells.append(f'{row.crops:.1f}')
    lines.append(tuple(cells))
  headings = ('', 'top-1', 'top-5', 'loss', 'top-1 minus the first, points')
  return Table(
      headings + ('pixels, in crops',) * bool(found[0].crops), tuple(lines)
  )


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.paper.dense_table`."""
  values = run_flags.start(argv)
  # These import JAX and TensorFlow, which --help does not need.
  from alexnet.checkpointing import manager
  from alexnet.evaluation.session import open_run
  from alexnet.inference import fully_convolutional
  from alexnet.metrics.console import Console

  console = Console()
  scales = fully_convolutional.parse_scales(values.scales)
  network = run_flags.load_network()
  scales = fully_convolutional.check_scales(scales, network.config)
  step = manager.parse_step(str(network.step))
  opened = open_run(values.workdir, console, run_flags.moved(), step)
  looked = places(network, opened, console)
  views = rows(opened, scales, console)
  count = looked.crops.shape[1:3]
  about = (
      f'Step {network.step:,} of {values.workdir}, all '
      f'{len(looked.labels):,} images of its evaluation set. '
  )
  page = [
      ('Differences between dense views and crops', [
          about + f'{count[0]} x {count[1]} positions in squares of '
          f'{network.size} pixels, without mirror images.',
          deviations(looked),
      ]),
      ('Accuracy of dense views', [about, table(views)]),
      ('Effect of the subtracted mean', [
          f'Dense views of {network.size} pixels, without mirror images.',
          table(means(looked)),
      ]),
  ]
  console.print()
  show(page, values.output)


if __name__ == '__main__':
  run_flags.define()
  flags.DEFINE_list(
      'scales', list(_SCALES),
      'Sides of the squares for dense views, in pixels.'
  )
  paths.define('output', 'Write the tables as Markdown to this file.')
  cli.run(main, finishes=True)
