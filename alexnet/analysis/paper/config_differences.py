"""In which fields a run's config is not the paper's, or run #145's."""

import dataclasses
from typing import Any

import ml_collections

from alexnet.analysis.tables import Item, Table
from alexnet.checkpointing import workdir
from alexnet.config import validation
from configs import alexnet, alexnet_2012

# They say where a run was made and how often it was looked at, not what it is.
_NOT_THE_RECIPE = (
    'accumulation', 'checkpoint_every', 'evaluate_every',
    'evaluation_batch_size', 'keep_checkpoints', 'layer_statistics_images',
    'log_every', 'log_images', 'seed', 'ten_views', 'dataset.copies',
    'dataset.dir', 'dataset.eval_dir', 'dataset.eval_fraction',
    'dataset.eval_split', 'dataset.split_seed', 'dataset.statistics_dir',
    'dataset.train_dir', 'dataset.train_split', 'mesh.data', 'mesh.tower',
    'model.num_classes',
)
# What a run of configs/cuda_convnet.py has from its files. The texts of these
# are fields too, of thousands of characters.
_OF_A_DEFINITION = (
    'ignore_init_functions', 'layer_params', 'layers', 'model.',
    'optimizer.bias_decay_multiplier', 'optimizer.layer_decay_factors',
    'optimizer.weight_decay', 'restart_rates',
)
# With schedule.name = 'definition'.
_RATES_OF_A_DEFINITION = (
    'optimizer.bias_rate_multiplier', 'schedule.learning_rate', 'schedule.name',
)


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
  if is_definition(config):
    left_out += _from_files(config)
  fields = []
  for name in sorted({*own, *paper}):
    if name in _NOT_THE_RECIPE or name.startswith(left_out):
      continue
    if name.endswith('.reads') and validation.towers_of(config.model) == 1:
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


def is_definition(config: ml_collections.ConfigDict) -> bool:
  """Whether a file of the authors describes the network: it is named."""
  return 'layers' in config


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
  return describe(config, differing_fields(config))


def describe(
    config: ml_collections.ConfigDict, fields: list[Field]
) -> list[Item]:
  """Says in which fields a config differs, given those that do.

  Args:
    config: the whole config.
    fields: from `differing_fields`.
  """
  lines = []
  every = 'every'
  if is_definition(config):
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
