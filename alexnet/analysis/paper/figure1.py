"""Figure 1 of the paper, from the runs of a sweep of configs/figure1.py.

  python -m alexnet.analysis.paper.figure1 --workdir=runs/figure1 \
      --output=figure1.png

For each activation it chooses the learning rate that reaches a training error
of 25 % in the fewest epochs, as in the paper's caption. The picture shows the
runs with this rate, the table all runs.
"""

import collections
import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Sequence

from absl import app, flags

from alexnet.analysis.tables import Table
from alexnet.checkpointing.workdir import CONFIG, load_config
from alexnet.config.errors import ConfigError
from alexnet.metrics.writer import FILE, read_records
from input_pipeline import cli
from input_pipeline.files import paths

GOAL = 0.25
# As in the paper: ReLU solid, tanh dashed.
_STYLES = {'relu': '-', 'tanh': '--', 'sigmoid': ':'}
_LABELS = {'relu': 'ReLU', 'tanh': 'tanh', 'sigmoid': 'sigmoid'}


@dataclasses.dataclass(frozen=True)
class Curve:
  """Training error of one run."""

  activation: str
  rate: float
  seed: int
  epochs: Sequence[float]  # Epoch of each line of its log.
  errors: Sequence[float]  # Mean training error since the previous line, 0..1.

  def epochs_to(self, goal: float = GOAL) -> float | None:
    """Returns the epochs until the error is at most `goal`, or None.

    They are interpolated linearly between lines of the log; None means that the
    goal is not reached.
    """
    points = list(zip(self.epochs, self.errors))
    if points and points[0][1] <= goal:
      return points[0][0]
    for (e0, y0), (e1, y1) in itertools.pairwise(points):
      if y1 <= goal:
        return e0 + (e1 - e0) * (y0 - goal) / (y0 - y1)
    return None


def read_curves(workdir: pathlib.Path) -> list[Curve]:
  """Reads the runs in a sweep's folder.

  Raises:
    ConfigError: there are no runs.
  """
  curves = []
  for file in sorted(workdir.glob(f'*/{CONFIG}')):
    config = load_config(file.parent)
    if config.until_train_error != GOAL:
      continue  # A run of another sweep.
    records = read_records(file.parent / FILE)
    lines = [record for record in records if record['kind'] == 'train']
    curves.append(Curve(
        config.model.activation, config.schedule.learning_rate, config.seed,
        epochs=[line['epoch'] for line in lines],
        errors=[1 - line['top1'] for line in lines],
    ))
  if not curves:
    raise ConfigError(
        f'{workdir} has no run of Figure 1: train them with `python -m '
        'alexnet.sweep --config=configs/figure1.py`'
    )
  return curves


def best(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
  """Selects the runs at each activation's fastest rate."""
  groups = collections.defaultdict(list)
  for curve in curves:
    groups[curve.activation, curve.rate].append(curve)
  arrived = [g for g in groups.values() if _mean_epochs(g) is not None]
  chosen = {}
  for group in sorted(arrived, key=_mean_epochs):
    chosen.setdefault(group[0].activation, group)
  return chosen


def _mean_epochs(group):
  epochs = [curve.epochs_to() for curve in group]
  return None if None in epochs else statistics.mean(epochs)


def table(curves: Sequence[Curve]) -> str:
  """Formats a Markdown table of all runs, with ratios of the activations."""
  rows = []
  for curve in sorted(curves, key=lambda c: (c.activation, c.rate, c.seed)):
    epochs = curve.epochs_to()
    if epochs is not None:
      text = f'{epochs:.2f}'
    elif curve.errors:
      text = f'{curve.errors[-1]:.1%} after {curve.epochs[-1]:.2f}'
    else:
      text = '--'
    rows.append((
        _LABELS[curve.activation], f'{curve.rate:g}', str(curve.seed), text
    ))
  headings = (
      'activation', 'learning rate', 'seed', 'epochs to 25 % training error'
  )
  lines = Table(headings, tuple(rows)).to_markdown()
  chosen = {name: _mean_epochs(group) for name, group in best(curves).items()}
  relu = chosen.pop('relu', None)
  for name, epochs in chosen.items() if relu else ():
    lines.append(
        f'\nReLU is {epochs / relu:.2f} times as fast as {_LABELS[name]} '
        f'({relu:.2f} and {epochs:.2f} epochs; the paper: about 6 times as '
        'fast as tanh).'
    )
  return '\n'.join(lines)


def draw(curves: Sequence[Curve], output: pathlib.Path) -> None:
  """Writes the picture.

  Raises:
    ConfigError: no run has reached the goal.
  """
  from matplotlib.figure import Figure  # Slow to import.

  if output.suffix not in ('.png', '.svg'):
    raise ConfigError(f'--output is {output}: expected a .png or .svg file')
  chosen = best(curves)
  if not chosen:
    raise ConfigError(
        f'no run has reached a training error of {GOAL:.0%} yet: train them '
        'further, or try other learning rates'
    )
  figure = Figure(figsize=(4.5, 3.6), layout='constrained')
  axes = figure.subplots()
  for name, group in sorted(chosen.items()):
    label = f'{_LABELS[name]}, learning rate {group[0].rate:g}'
    for curve in group:
      axes.plot(
          curve.epochs, curve.errors, _STYLES[name], color='black', label=label
      )
      label = None
  axes.axhline(GOAL, color='grey', linewidth=0.8)
  axes.set(
      xlabel='Epochs', ylabel='Training error rate', xlim=(0, None),
      ylim=(0, 0.75),
  )
  axes.legend(frameon=False)
  output.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(output, dpi=110)


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.paper.figure1`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  curves = read_curves(flags.FLAGS.workdir)
  print(table(curves))
  if flags.FLAGS.output:
    draw(curves, flags.FLAGS.output)


if __name__ == '__main__':
  paths.define('workdir', 'Folder of the sweep.')
  paths.define('output', 'Draw the figure to this .png or .svg file.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)
