"""Fields in which a run's config differs from the paper and run #145."""

import dataclasses
from typing import Any

import ml_collections

from alexnet.analysis.tables import Item, Table
from alexnet.checkpointing import workdir
from configs import alexnet, alexnet_2012

# Fields about where a run is made and how often it is saved, not its recipe.
_NOT_THE_RECIPE = (
    'accumulation', 'checkpoint_every', 'evaluate_every',
    'evaluation_batch_size', 'keep_checkpoints', 'layer_statistics_images',
    'log_every', 'log_images', 'seed', 'ten_views', 'dataset.copies',
    'dataset.dir', 'dataset.eval_dir', 'dataset.eval_fraction',
    'dataset.eval_split', 'dataset.split_seed', 'dataset.statistics_dir',
    'dataset.train_dir', 'dataset.train_split', 'mesh.data', 'mesh.tower',
    'model.num_classes',
)
# Fields of configs/cuda_convnet.py that come from its files, including their
# long texts.
_OF_A_DEFINITION = (
    'ignore_init_functions', 'layer_params', 'layers', 'model.',
    'optimizer.bias_decay_multiplier', 'optimizer.layer_decay_factors',
    'optimizer.weight_decay', 'restart_rates',
)
# The same for schedule.name = 'definition'.
_RATES_OF_A_DEFINITION = (
    'optimizer.bias_rate_multiplier', 'schedule.learning_rate', 'schedule.name',
)


@dataclasses.dataclass(frozen=True)
class Field:
  """A field in which a run differs from the paper or run #145."""

  name: str
  run: Any
  paper: Any
  code: Any
  present: bool = True  # False if the run lacks the field; `run` is None then.

  @property
  def own(self) -> bool:
    """Whether the value is neither the paper's nor run #145's."""
    return self.run not in (self.paper, self.code)


def differing_fields(config: ml_collections.ConfigDict) -> list[Field]:
  """Finds fields in which a config differs from the two recipes.

  A field that is missing in one of them is None there. Fields that the run does
  not use or takes from a definition file are left out.
  """
  data = config.dataset.name
  recipes = alexnet.get_config(data), alexnet_2012.get_config(data)
  all_three = [workdir.flatten(c.to_dict()) for c in (config, *recipes)]
  own, paper, _ = all_three
  left_out = _without_use(config)
  if is_definition(config):
    left_out += _from_files(config)
  # With one tower, 'own' and 'both' are the same.
  if config.model.towers == 1:
    left_out += tuple(name for name in own if name.endswith('.reads'))
  fields = (
      Field(name, *(fields.get(name) for fields in all_three), name in own)
      for name in sorted({*own, *paper})
      if name not in _NOT_THE_RECIPE and not name.startswith(left_out)
  )
  return [f for f in fields if not f.run == f.paper == f.code]


def _without_use(config):
  """Prefixes of schedule fields that the run does not use."""
  schedule = config.schedule
  used = {schedule.name}
  if schedule.name in ('geometric', 'definition') and schedule.steps:
    used.add('steps')  # These are applied on top.
  if schedule.batch_scaling != 'none':
    used.add('reference_batch_size')
  return tuple(
      f'schedule.{name}'
      for name in ('plateau', 'steps', 'geometric', 'reference_batch_size')
      if name not in used
  )


def is_definition(config: ml_collections.ConfigDict) -> bool:
  """Returns whether the network comes from the authors' definition files."""
  return 'layers' in config


def _from_files(config):
  """Prefixes of fields that a definition file determines."""
  names = _OF_A_DEFINITION
  if config.schedule.name == 'definition':
    names += _RATES_OF_A_DEFINITION
  if config.optimizer.momentum is None:
    names += ('optimizer.momentum',)
  return names


def describe(
    config: ml_collections.ConfigDict, fields: list[Field]
) -> list[Item]:
  """Describes the fields that `differing_fields` returns."""
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
    lines.append(f'It equals the paper and run #145 in {every} field.')
    return lines
  if not any(f.own for f in fields):
    lines.append(
        f'{every.capitalize()} field is as in the paper or as in run #145.'
    )
  for text, belongs in (
      ('Neither as in the paper nor as in run #145:', lambda f: f.own),
      ('As in the paper, not as in run #145:', lambda f: f.run == f.paper),
      ('As in run #145, not as in the paper:',
       lambda f: f.run == f.code != f.paper),
  ):
    rows = tuple(
        (f.name, *map(repr, (f.run, f.paper, f.code)))
        for f in fields if belongs(f)
    )
    if rows:
      lines += [text, Table(('field', 'run', 'paper', 'run #145'), rows)]
  return lines
