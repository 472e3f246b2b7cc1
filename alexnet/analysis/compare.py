"""Sets a finished run beside the paper's numbers and the authors' log.

  python -m alexnet.analysis.compare --workdir=RUN

says, for the centre crop and for ten views, which reported errors the 95 %
interval of the run's own error holds, in which fields its config differs from
configs/alexnet.py and configs/alexnet_2012.py, and which of them are known to
cost something. --output=FILE.md writes the same as Markdown.
"""

import dataclasses
import pathlib
from typing import Any

import ml_collections
from absl import app, flags

from alexnet import cli, definitions, workdir
from alexnet.analysis import document, references
from alexnet.analysis.document import Bullets, Item, Section, Table
from alexnet.errors import CheckpointError, ConfigError
from configs import alexnet, alexnet_2012

CONFIDENCE = 0.95
# Evaluated images of the sets of ImageNet that have reported numbers.
_IMAGES = {
    50_000: references.ILSVRC_2012,
    150_000: references.ILSVRC_2010,
}
_VIEWS = {'centre': 'centre crop', 'ten': 'ten views'}
# They say where a run was made and how often it was looked at, not what it is.
_NOT_THE_RECIPE = (
    'accumulation', 'checkpoint_every', 'evaluate_every',
    'evaluation_batch_size', 'keep_checkpoints', 'layer_statistics_images',
    'log_every', 'log_images', 'seed', 'ten_views', 'dataset.dir',
    'dataset.eval_dir', 'dataset.eval_fraction', 'dataset.eval_split',
    'dataset.split_seed', 'dataset.statistics_dir',
    'dataset.train_dir', 'dataset.train_split', 'mesh.data', 'mesh.tower',
    'model.num_classes',
)
# What a run of configs/cuda_convnet.py has from its files. The texts of these
# are fields too, of thousands of characters.
_OF_A_DEFINITION = (
    'ignore_init_functions', 'layer_params', 'layers', 'model.',
    'optimizer.bias_decay_multiplier', 'optimizer.weight_decay',
    'restart_rates',
)
# With schedule.name = 'definition'.
_RATES_OF_A_DEFINITION = (
    'optimizer.bias_rate_multiplier', 'schedule.learning_rate', 'schedule.name',
)


@dataclasses.dataclass(frozen=True)
class Measured:
  """An error rate with its interval, in percent."""

  error: float
  low: float
  high: float

  def __str__(self):
    return f'{self.error:.2f} % ({self.low:.2f} to {self.high:.2f})'


def measure(accuracy: float, count: int) -> Measured:
  """The error of `count` images and its 95 % interval (Wilson's).

  The interval is of the share of errors among images like these; it says
  nothing of how runs with other seeds differ.

  Args:
    accuracy: share of images that were right, 0 to 1.
    count: number of images.
  """
  from scipy import stats  # Slow to import.

  wrong = round((1 - accuracy) * count)
  interval = stats.binomtest(wrong, count).proportion_ci(
      CONFIDENCE, method='wilson'
  )
  return Measured(
      100 * wrong / count, 100 * interval.low, 100 * interval.high
  )


def place(measured: Measured, reference: tuple[float, float]) -> str:
  """Where a reported error, or a range of them, lies from the interval."""
  lowest, highest = reference
  if lowest <= measured.high and highest >= measured.low:
    return 'inside'
  if highest < measured.low:
    return f'outside: the run is {measured.error - highest:.2f} points worse'
  return f'outside: the run is {lowest - measured.error:.2f} points better'


def evaluated_on(
    config: ml_collections.ConfigDict, results: dict[str, Any]
) -> str | None:
  """Which set with reported numbers a run is evaluated on; None if on none.

  Known by the name of the dataset or, of a folder or prepared data, guessed by
  1,000 classes and the set's number of images.
  """
  name = config.dataset.name
  data = _IMAGES.get(results['centre']['count'])
  if _is_imagenet2012(name):
    # As many images of its training set are not the validation set.
    validation = config.dataset.eval_split.startswith('validation')
    return data if validation and data == references.ILSVRC_2012 else None
  by_size = name in ('folder', 'prepared') and config.model.num_classes == 1000
  return data if by_size else None


def _is_imagenet2012(name):
  """Not its relatives: imagenet2012_corrupted, _subset, _real, ..."""
  return name == 'imagenet2012' or name.startswith('imagenet2012:')  # Version.


def compare(
    config: ml_collections.ConfigDict, results: dict[str, Any]
) -> list[Section]:
  """Everything that there is to say about a run.

  Args:
    config: of the run, see `workdir.load_config`.
    results: of the run, see `workdir.load_results`.
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
  return [
      ('The run', _describe(config, results, data, measured)),
      ('Reported errors', _references(data, measured)),
      ('Ten views against the centre crop', _gain(data, results, measured)),
      ("The run's config", _differences(config, fields)),
      ('What could explain a gap', _explain(config, data, measured, fields)),
  ]


def _describe(config, results, data, measured):
  centre = results['centre']
  known = ''
  if data:
    named = _is_imagenet2012(config.dataset.name)
    known = f': {data}' if named else f', taken, by its size, for {data}'
  lines = [
      f'{results["step"]:,} steps ({config.duration}), evaluated on '
      f'{centre["count"]:,} images of {config.dataset.name}, '
      f'{config.model.num_classes:,} classes{known}.',
      'Errors, with the 95 % interval (Wilson) of a share of so many images. '
      'It does not hold what another seed would change.',
      Table(
          ('', 'top-1 error', 'top-5 error'),
          tuple(
              (_VIEWS[views], str(top1), str(top5))
              for views, (top1, top5) in measured.items()
          ),
      ),
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
  rows = []
  for reference in references.REFERENCES:
    if reference.data != data or reference.views not in measured:
      continue
    own = measured[reference.views]
    reported = (reference.top1, reference.top5)
    rows.append((
        reference.name,
        _VIEWS[reference.views],
        ' / '.join(_range(r) for r in reported),
        *(place(m, r) for m, r in zip(own, reported)),
    ))
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
      continue  # Five classes, or a set that is too easy: nothing to gain.
    centre, ten = (measured[views][index] for views in ('centre', 'ten'))
    gain = centre.error - ten.error
    half = [(m.high - m.low) / 2 for m in (centre, ten)]
    width = (half[0] ** 2 + half[1] ** 2) ** 0.5
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


@dataclasses.dataclass(frozen=True)
class Field:
  """A field in which a run differs from the paper or from run #145."""

  name: str
  run: Any
  paper: Any
  code: Any
  present: bool = True  # Whether the run has it at all; if not, `run` is None.

  @property
  def own(self) -> bool:
    """Whether it is neither as in the paper nor as in run #145."""
    return self.run not in (self.paper, self.code)


def differing_fields(config: ml_collections.ConfigDict) -> list[Field]:
  """Where a config differs from the two recipes for its dataset.

  A field that one of them has not got is None there. Settings that the run
  does not use are left out, and so is what it has from a definition file.
  """
  name = config.dataset.name
  own, paper, code = (
      workdir.flatten(one.to_dict())
      for one in (
          config, alexnet.get_config(name), alexnet_2012.get_config(name)
      )
  )
  left_out = _without_use(config)
  if _is_definition(config):
    left_out += _from_files(config)
  fields = []
  for name in sorted({*own, *paper}):
    if name in _NOT_THE_RECIPE or name.startswith(left_out):
      continue
    if name.endswith('.reads') and config.model.towers == 1:
      continue  # Its own tower and both are the same.
    field = Field(
        name, own.get(name), paper.get(name), code.get(name), name in own
    )
    if not field.run == field.paper == field.code:
      fields.append(field)
  return fields


def _without_use(config):
  """Beginnings of the names of schedule settings that the run does not use."""
  schedule = config.schedule
  used = {schedule.name}
  if schedule.name in ('geometric', 'definition') and schedule.steps:
    used.add('steps')  # They come on top of these.
  if schedule.batch_scaling != 'none':
    used.add('reference_batch_size')
  return tuple(
      f'schedule.{name}'
      for name in ('plateau', 'steps', 'geometric', 'reference_batch_size')
      if name not in used
  )


def _is_definition(config):
  return config.model.name == definitions.NAME


def _from_files(config):
  """Beginnings of the names of what a definition's files say."""
  names = _OF_A_DEFINITION
  if config.schedule.name == 'definition':
    names += _RATES_OF_A_DEFINITION
  if config.optimizer.momentum is None:
    names += ('optimizer.momentum',)
  return names


def config_differences(config: ml_collections.ConfigDict) -> list[Item]:
  """In which fields a config differs from the paper's and run #145's."""
  return _differences(config, differing_fields(config))


def _differences(config, fields):
  lines = []
  every = 'every'
  if _is_definition(config):
    rates = ', its rates' * (config.schedule.name == 'definition')
    lines.append(
        f'The network{rates} and its decays are those of the file '
        f'{config.layers} and of its parameter file, and are not compared.'
    )
    every = 'every other'
  if not fields:
    return [
        *lines,
        f'It is that of the paper, and of run #145, in {every} field.',
    ]
  for text, chosen in (
      ('Neither as in the paper nor as in run #145:',
       [f for f in fields if f.own]),
      ('As in the paper, not as in run #145:',
       [f for f in fields if f.run == f.paper]),
      ('As in run #145, not as in the paper:',
       [f for f in fields if f.run == f.code and f.run != f.paper]),
  ):
    if chosen:
      rows = tuple(
          (f.name, *map(repr, (f.run, f.paper, f.code))) for f in chosen
      )
      lines += [text, Table(('field', 'run', 'paper', 'run #145'), rows)]
    elif text.startswith('Neither'):
      lines.append(
          f'{every.capitalize()} field is as in the paper or as in run #145.'
      )
  return lines


def _explain(config, data, measured, fields):
  worse = [
      reference.name
      for reference in references.REFERENCES
      if reference.data == data
      and reference.views in measured
      and reference.same_network
      and any(
          'worse' in place(own, reported)
          for own, reported in zip(
              measured[reference.views], (reference.top1, reference.top5)
          )
      )
  ]
  if data is None:
    lines = ['Whether there is a gap is not known, as above.']
  elif not worse:
    lines = ['There is none: the run is not outside of its interval and worse.']
  else:
    lines = [f'The run is worse than: {"; ".join(worse)}.']
  effects = {f.name: references.effect_of(f.name, f.run) for f in fields}
  own = [f.name for f in fields if f.own and f.present]
  known = [name for name in own if effects[name]]
  unknown = [name for name in own if not effects[name]]
  if known:
    lines.append('Of its own fields these have a known effect on ImageNet:')
    lines.append(Bullets(tuple(f'{name}: {effects[name]}' for name in known)))
  if unknown:
    lines.append(f'And these have none that is known: {", ".join(unknown)}.')
  if worse and not own:
    has = 'The config has'
    if _is_definition(config):
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
    CheckpointError: no run there, or it is not finished.
  """
  config = workdir.load_config(folder)
  results = workdir.load_results(folder)
  if results is None:
    raise CheckpointError(
        f'{folder} has no {workdir.RESULTS}, so the run is not finished: run '
        'its command again to continue it to its end'
    )
  return config, results


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.compare`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  folder = pathlib.Path(values.workdir)
  sections = compare(*load(folder))
  if not values.output:
    print(document.to_text(sections), end='')
    return
  output = pathlib.Path(values.output)
  if output.suffix != '.md':
    raise ConfigError(f'--output is {output}: wanted a file that ends in .md')
  text = f'# {folder}\n\n{document.to_markdown(sections)}'
  output.write_text(text, encoding='utf-8')
  print(f'wrote {output}')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the finished run.')
  flags.DEFINE_string('output', None, 'Markdown file to write.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)
