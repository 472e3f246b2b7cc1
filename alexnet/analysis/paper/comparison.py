"""Compares a finished run's errors with those of the paper and its log."""

import dataclasses
import math
import pathlib
from typing import Any

import ml_collections

from alexnet.analysis.paper import references
from alexnet.analysis.paper.config_differences import (
  describe,
  differing_fields,
  is_definition,
)
from alexnet.analysis.tables import Bullets, Section, Table
from alexnet.checkpointing import workdir
from alexnet.config.errors import CheckpointError

CONFIDENCE = 0.95
# ImageNet sets with reported numbers, by their number of images.
_IMAGES = {
    50_000: references.ILSVRC_2012,
    150_000: references.ILSVRC_2010,
}
_VIEWS = {'centre': 'centre crop', 'ten': 'ten views'}


@dataclasses.dataclass(frozen=True)
class Measured:
  """An error rate with its confidence interval, in percent."""

  error: float
  low: float
  high: float

  def __str__(self):
    return f'{self.error:.2f} % ({self.low:.2f} to {self.high:.2f})'


def measure(accuracy: float, count: int) -> Measured:
  """Error rate of `count` images with its 95 % Wilson interval.

  The interval covers other images like these, but not other seeds.
  """
  from scipy import stats  # Slow to import.

  test = stats.binomtest(round((1 - accuracy) * count), count)
  interval = test.proportion_ci(CONFIDENCE, method='wilson')
  shares = test.statistic, interval.low, interval.high
  return Measured(*(100 * share for share in shares))


def place(measured: Measured, reference: tuple[float, float]) -> str:
  """Describes where a reported error or range lies relative to the interval."""
  lowest, highest = reference
  if lowest <= measured.high and highest >= measured.low:
    return 'inside'
  if highest < measured.low:
    return f'outside: the run is {measured.error - highest:.2f} points worse'
  return f'outside: the run is {lowest - measured.error:.2f} points better'


def evaluated_on(
    config: ml_collections.ConfigDict, results: dict[str, Any]
) -> str | None:
  """Name of the evaluation set if it has reported numbers, else None.

  Taken from the name of the dataset; for folders and prepared data guessed from
  1,000 classes and the set's number of images.
  """
  name = config.dataset.name
  data = _IMAGES.get(results['centre']['count'])
  known = name in ('folder', 'prepared') and config.model.num_classes == 1000
  if _is_imagenet2012(name):
    # A part of the training set of the same size is not the validation set.
    validation = config.dataset.eval_split.startswith('validation')
    known = validation and data == references.ILSVRC_2012
  return data if known else None


def _is_imagenet2012(name):
  """Whether a name is ImageNet's, not imagenet2012_corrupted, _subset, ..."""
  return name == 'imagenet2012' or name.startswith('imagenet2012:')  # Version.


def compare(
    config: ml_collections.ConfigDict, results: dict[str, Any]
) -> list[Section]:
  """Compares a run, as returned by `load`, with all references."""
  data = evaluated_on(config, results)
  measured = {
      views: [
          measure(results[views][top], results[views]['count'])
          for top in ('top1', 'top5')
      ]
      for views in _VIEWS
      if views in results
  }
  fields = differing_fields(config)
  return [
      ('The run', _describe(config, results, data, measured)),
      ('Reported errors', _references(data, measured)),
      ('Ten views against the centre crop', _gain(data, results, measured)),
      ("The run's config", describe(config, fields)),
      ('What could explain a gap', _explain(config, data, measured, fields)),
  ]


def _describe(config, results, data, measured):
  centre = results['centre']
  known = ''
  if data:
    named = _is_imagenet2012(config.dataset.name)
    known = f': {data}' if named else f', taken, by its size, for {data}'
  rows = tuple(
      (_VIEWS[views], *map(str, errors)) for views, errors in measured.items()
  )
  lines = [
      f'{results["step"]:,} steps ({config.duration}), evaluated on '
      f'{centre["count"]:,} images of {config.dataset.name}, '
      f'{config.model.num_classes:,} classes{known}.',
      'Errors, with the 95 % interval (Wilson) of a share of so many images. '
      'It does not hold what another seed would change.',
      Table(('', 'top-1 error', 'top-5 error'), rows),
  ]
  if 'ten' not in measured:
    lines.append('No result with ten views: the run has ten_views=False.')
  elif results['ten'].get('views', 10) < 10:
    lines.append(
        f'The ten views are {results["ten"]["views"]}: training does not '
        'mirror images, so the mirror images were left out.'
    )
  return lines


def _references(data, measured):
  if data is None:
    return [
        'The run is not evaluated on ImageNet (ILSVRC-2012 validation or '
        'ILSVRC-2010 test), so its errors cannot be compared with those of the '
        "paper or of the authors' log: other images, other classes."
    ]
  rows = [
      (reference.name, _VIEWS[reference.views],
       ' / '.join(map(_range, (reference.top1, reference.top5))), *places)
      for reference, places in _places(data, measured)
  ]
  if not rows:
    return ['Nothing is reported for these views.']
  headings = ('reported', 'views', 'top-1 / top-5 error, %', 'top-1', 'top-5')
  lines = [
      Table(headings, tuple(rows)),
      'Inside: the reported error lies in the interval of the run. Both are of '
      'the same images, so a difference on them is what it is; what the '
      'interval leaves open is whether other images would show it.',
  ]
  if data == references.ILSVRC_2012:
    lines.append(
        'How much seeds and schedules change: see the later runs of the '
        'network.'
    )
  return lines


def _places(data, measured):
  """(reference, position of its top-1 and top-5 errors) for the same images."""
  return [
      (one, [*map(place, measured[one.views], (one.top1, one.top5))])
      for one in references.REFERENCES
      if one.data == data and one.views in measured
  ]


def _range(values):
  low, high = values
  return f'{low:.2f}' if low == high else f'{low:.1f} to {high:.1f}'


def _gain(data, results, measured):
  if 'ten' not in measured:
    return ['Not known: there is no result with ten views.']
  lines = []
  if data is None:
    lines.append(
        'On ImageNet; on other images it is a hint at most, as it depends on '
        'where objects lie in them.'
    )
  rows = []
  for index, name in enumerate(('top-1', 'top-5')):
    if name == 'top-5' and measured['centre'][1].error == 0:
      continue  # Five classes or an easy set: there is nothing to gain.
    centre, ten = (measured[views][index] for views in ('centre', 'ten'))
    gain = centre.error - ten.error
    width = math.hypot(*((m.high - m.low) / 2 for m in (centre, ten)))
    low, high = references.GAIN_OF_TEN_VIEWS[index]
    within = low <= gain + width and high >= gain - width
    rows.append((
        name,
        f'{gain:.2f} points, at most +-{width:.2f}',
        f'{low} to {high}',
        'agrees' if within else 'differs',
    ))
  lines.append(Table(('', 'gain', 'reported', ''), tuple(rows)))
  lines.append(
      'The width is that of two sets of other images; of the same images it is '
      'less.'
  )
  return lines


def _explain(config, data, measured, fields):
  worse = [
      reference.name for reference, places in _places(data, measured)
      if reference.same_network and any('worse' in place for place in places)
  ]
  if data is None:
    lines = ['Whether there is a gap is not known, as above.']
  elif not worse:
    lines = ['There is none: the run is not outside of its interval and worse.']
  else:
    lines = [f'The run is worse than: {"; ".join(worse)}.']
  own = {
      f.name: references.effect_of(f.name, f.run)
      for f in fields if f.own and f.present
  }
  known = tuple(f'{name}: {effect}' for name, effect in own.items() if effect)
  unknown = ', '.join(name for name, effect in own.items() if not effect)
  if known:
    lines.append('Of its own fields these have a known effect on ImageNet:')
    lines.append(Bullets(known))
  if unknown:
    lines.append(f'And these have none that is known: {unknown}.')
  if worse and not own:
    has = 'The config has'
    if is_definition(config):
      has = f'Beside the network of {config.layers} the config has'
    lines.append(
        f'{has} nothing of its own. Look at how the images were '
        'prepared (squeezed whole into a square: 20.6 against 18.1 % top-5), '
        'at metrics.jsonl for a rate that has dropped too early, and at '
        'another seed.'
    )
  return lines


def load(
    folder: pathlib.Path,
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """Reads the config and the results of a finished run.

  Raises:
    CheckpointError: there is no run, or it is not finished.
  """
  config = workdir.load_config(folder)
  results = workdir.load_results(folder)
  if results is None:
    raise CheckpointError(
        f'{folder} has no {workdir.RESULTS}, so the run is not finished: run '
        'its command again to continue it to its end'
    )
  return config, results
