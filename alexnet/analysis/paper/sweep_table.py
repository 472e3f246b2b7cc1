"""The table of a sweep: errors of its variants beside the paper's."""

import math
import pathlib
import statistics
from collections.abc import Sequence

from alexnet.checkpointing.workdir import load_results
from alexnet.config.sweep import FAILED, Sweep


def table(sweep: Sweep, workdir: pathlib.Path) -> str:
  """What the runs have come to, in Markdown, a line a variant.

  Errors are in percent, mean ± standard deviation over the seeds that are
  finished; differences to the base are in points, ± their standard error.
  With ten views where all finished runs have them, else of the centre crop.
  """
  rows = [
      [
          load_results(workdir / sweep.folder(index)) or {}
          for index in range(number, len(sweep), len(sweep.variants))
      ]
      for number in range(len(sweep.variants))
  ]
  finished = [r for results in rows for r in results if r]
  views = 'ten' if finished and all('ten' in r for r in finished) else 'centre'
  name = 'ten views' if views == 'ten' else 'centre crop'
  lines = [[
      f'{sweep.name} ({name})', 'n', 'top-1 error', 'top-5 error', 'loss',
      'worse than the base by', 'in the paper',
  ]]
  of = lambda results, key: [r[views][key] for r in results if r]
  for variant, results in zip(sweep.variants, rows):
    first = variant is sweep.variants[0]
    errors = {
        key: ([100 * (1 - x) for x in of(results, key)],
              [100 * (1 - x) for x in of(rows[0], key)])
        for key in ('top1', 'top5')
    }
    lines.append([
        variant.name,
        _count(sweep, workdir, sweep.variants.index(variant), results),
        *(mean_and_deviation(errors[key][0], '.2f') for key in errors),
        mean_and_deviation(of(results, 'loss'), '.4f'),
        '' if first else ' / '.join(_gap(*errors[key]) for key in errors),
        '' if variant.paper is None else ' / '.join(
            '?' if points is None else f'{points:+.1f}'
            for points in variant.paper
        ),
    ])
  return markdown(lines)


def _count(sweep, workdir, number, results):
  finished = sum(map(bool, results))
  failed = sum(
      (workdir / sweep.folder(index) / FAILED).exists()
      for index in range(number, len(sweep), len(sweep.variants))
  )
  return f'{finished} ({failed} failed)' if failed else str(finished)


def mean_and_deviation(values: Sequence[float], form: str) -> str:
  """'mean ± standard deviation', the latter of several values only."""
  if not values:
    return '--'
  mean = format(statistics.mean(values), form)
  if len(values) == 1:
    return mean
  return f'{mean} ± {format(statistics.stdev(values), form)}'


def _gap(values, base):
  if not values or not base:
    return '--'
  gap = f'{statistics.mean(values) - statistics.mean(base):+.2f}'
  if min(len(values), len(base)) == 1:
    return gap
  error = math.hypot(*(
      statistics.stdev(x) / math.sqrt(len(x)) for x in (values, base)
  ))
  return f'{gap} ± {error:.2f}'


def markdown(lines: Sequence[Sequence[str]]) -> str:
  """A table of cells; the first line is its head."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  rows = [
      '| ' + ' | '.join(c.ljust(w) for c, w in zip(line, widths)) + ' |'
      for line in lines
  ]
  rows.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(rows)
