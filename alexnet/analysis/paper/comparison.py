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
  """Computes an error rate with its 95 % Wilson interval.

  The interval covers other images like these, but not other seeds.

  Args:
    accuracy: share of correct images, 0 to 1.
    count: number of images.
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
  """Returns the name of the evaluation set if it has reported numbers, or None.

  The name is that of the dataset; for folders and prepared data it is guessed
  from 1,000 classes and the number of images.
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
  """Returns whether a name is ImageNet's, not imagenet2012_corrupted, ..."""
  return name == 'imagenet2012' or name.startswith('imagenet2012:')  # Version.


def compare(
    config: ml_collections.ConfigDict, results: dict[str, Any]
) -> list[Section]:
  """Compares a run with all references.

  Args:
    config: config of the run, from `load`.
    results: results of the run, from `load`.

  Returns:
    The sections of the comparison, without those that have nothing to say.
  """
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
  sections = [
      ('The run', _describe(config, results, data, measured)),
      ('Reported errors', _references(data, measured)),
      ('Ten views against the centre crop', _gain(data, results, measured)),
      ("The run's config", describe(config, fields)),
      ('What could explain a gap', _explain(config, data, measured, fields)),
  ]
  return [(title, items) for title, items in sections if items]


def _describe(config, results, data, measured):
  centre = results['centre']
  known = ''
  if data:
    named = _is_imagenet2012(config.dataset.name)
    known = f': {data}' if named else f', judging by its size {data}'
  rows = tuple(
      (_VIEWS[views], *map(str, errors)) for views, errors in measured.items()
  )
  lines = [
      f'{results["step"]:,} steps ({config.duration}), evaluated on '
      f'{centre["count"]:,} images of {config.dataset.name}, '
      f'{config.model.num_classes:,} classes{known}.',
      'Errors are given with their 95 % interval (Wilson) for this number of '
      'images. It does not include differences between seeds.',
      Table(('', 'top-1 error', 'top-5 error'), rows),
  ]
  if 'ten' not in measured:
    lines.append('No result with ten views: the run has ten_views=False.')
  elif results['ten'].get('views', 10) < 10:
    lines.append(
        f'There are only {results["ten"]["views"]} views instead of ten: '
        'training does not mirror images, so mirror images were left out.'
    )
  return lines


def _references(data, measured):
  if data is None:
    return [
        'The run is not evaluated on ImageNet (ILSVRC-2012 validation or '
        'ILSVRC-2010 test), so its errors cannot be compared with those of the '
        "paper or of the authors' log."
    ]
  rows = [
      (reference.name, _VIEWS[reference.views],
       ' / '.join(map(_range, (reference.top1, reference.top5))), *places)
      for reference, places in _places(data, measured)
  ]
  if not rows:
    return ['There are no reported errors for these views.']
  headings = ('reported', 'views', 'top-1 / top-5 error, %', 'top-1', 'top-5')
  lines = [
      Table(headings, tuple(rows)),
      '"inside" means that the reported error lies in the interval of the run. '
      'Both errors are for the same images, so their difference on these '
      'images is exact. The interval says how it could change with other '
      'images.',
  ]
  if data == references.ILSVRC_2012:
    lines.append(
        'The later runs of the network show how much seeds and schedules '
        'change the errors.'
    )
  return lines


def _places(data, measured):
  """Compares the run with each reference for the same images.

  Returns:
    (reference, [`place` of its top-1 error, `place` of its top-5 error]).
  """
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
    return []
  lines = []
  if data is None:
    lines.append(
        'The reported gains are for ImageNet. For other images they are only a '
        'hint, since the gain depends on where objects lie in the images.'
    )
  rows = []
  for index, name in enumerate(('top-1', 'top-5')):
    if name == 'top-5' and measured['centre'][1].error == 0:
      continue  # An error of 0 cannot be reduced.
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
      'The width after +- is for errors of two different sets of images. It is '
      'smaller for the same images, as here.'
  )
  return lines


def _explain(config, data, measured, fields):
  worse = [
      reference.name for reference, places in _places(data, measured)
      if reference.same_network and any('worse' in place for place in places)
  ]
  if data is None:
    lines = []
  elif not worse:
    lines = [
        'There is no gap: no reported error of this network is below the '
        "run's interval."
    ]
  else:
    lines = [f'The run is worse than: {"; ".join(worse)}.']
  own = {
      f.name: references.effect_of(f.name, f.run)
      for f in fields if f.own and f.present
  }
  known = tuple(f'{name}: {effect}' for name, effect in own.items() if effect)
  unknown = ', '.join(name for name, effect in own.items() if not effect)
  if known:
    lines.append(
        'Fields that differ from both recipes, with their known effect on '
        'ImageNet:'
    )
    lines.append(Bullets(known))
  if unknown and data is not None:
    lines.append(
        'Fields that differ from both recipes, without a known effect: '
        f'{unknown}.'
    )
  if worse and not own:
    has = 'No field'
    if is_definition(config):
      has = f'Apart from the network of {config.layers}, no field'
    lines.append(
        f'{has} of the config differs from both recipes. Check how the '
        'images were prepared (squeezing the whole image into a square gives '
        '20.6 instead of 18.1 % top-5 error), whether the learning rate '
        'dropped too early (metrics.jsonl), and another seed.'
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
