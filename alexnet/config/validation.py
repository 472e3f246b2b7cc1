"""Checks every field of a config before a run starts.

One row per field; conflicts between fields are at the end. Values that depend
on the data, the devices or the layers' names are checked where these are known.
Fields of the data are in input_pipeline/config/fields.py, and a network's own
in its file, see `models.check`.
"""

from collections.abc import Iterator, Mapping

import ml_collections

from alexnet.config import intervals
from alexnet.config.errors import ConfigError
from input_pipeline.config import checks, fields
from input_pipeline.files import paths

# Most parameters of a network; each takes twelve bytes in training.
MAX_PARAMETERS = 2**30

_RATE_STEPS = checks.tuple_of(
    "(epoch, layer or path or 'all', 'kernel' or 'bias' or 'both', rate >= 0) "
    'each',
    lambda step: isinstance(step, (tuple, list))
    and len(step) == 4
    and checks.NOT_NEGATIVE.accepts(step[0])
    and checks.is_text(step[1])
    and step[2] in ('kernel', 'bias', 'both')
    and checks.NOT_NEGATIVE.accepts(step[3]),
)
_PAIRS = checks.tuple_of(
    '(layer or path, factor >= 0) each, and each layer or path once',
    lambda pair: isinstance(pair, (tuple, list))
    and len(pair) == 2
    and checks.is_text(pair[0])
    and checks.NOT_NEGATIVE.accepts(pair[1]),
)
_FACTORS = checks.Check(
    _PAIRS.wanted,
    lambda pairs: _PAIRS.accepts(pairs) and len(dict(pairs)) == len(pairs),
)


def _duration(*, never: bool) -> checks.Check:
  wanted = intervals.WANTED + (", or 'never'" if never else '')
  return checks.Check(
      wanted,
      lambda value: (never and value == 'never') or intervals.is_valid(value),
  )


# {dotted field: check} of every config.
COMMON = {
    **fields.CHECKS,
    'seed': checks.SEED,
    'batch_size': checks.whole(1),
    'accumulation': checks.whole(1),
    'duration': _duration(never=False),
    'until_train_error': checks.BELOW_ONE.or_unset(),
    'evaluate_every': _duration(never=True),
    'checkpoint_every': _duration(never=True),
    'log_every': _duration(never=True),
    'keep_checkpoints': checks.whole(1),
    'keep_best': checks.whole(0),
    'bad_steps.action': checks.choice('stop', 'skip', 'rollback'),
    'bad_steps.spike': checks.number(
        'a number > 1', lambda value: value > 1
    ).or_unset(),
    'bad_steps.limit': checks.whole(1),
    'deterministic': checks.FLAG,
    'evaluation_batch_size': checks.whole(1),
    'ten_views': checks.FLAG,
    'layer_statistics_images': checks.whole(0),
    'log_images': checks.FLAG,
    'pretrained.workdir': checks.PATH,
    'pretrained.layers': checks.tuple_of(
        "names of layers, such as ('NAME',)", checks.is_text
    ),
    'optimizer.momentum': checks.BELOW_ONE,
    'optimizer.weight_decay': checks.NOT_NEGATIVE,
    'optimizer.bias_rate_multiplier': checks.NOT_NEGATIVE,
    'optimizer.bias_decay_multiplier': checks.NOT_NEGATIVE,
    'optimizer.layer_rate_factors': _FACTORS,
    'optimizer.layer_decay_factors': _FACTORS,
    'schedule.name': checks.choice('constant', 'plateau', 'steps', 'geometric'),
    'schedule.learning_rate': checks.POSITIVE,
    'schedule.batch_scaling': checks.choice('none', 'linear', 'sqrt'),
    'schedule.reference_batch_size': checks.whole(1),
    'schedule.warmup_epochs': checks.NOT_NEGATIVE,
    'schedule.plateau.patience': checks.whole(1),
    'schedule.plateau.factor': checks.number(
        'more than 0, at most 1', lambda value: 0 < value <= 1
    ),
    'schedule.plateau.max_drops': checks.whole(0),
    'schedule.steps': _RATE_STEPS,
    'schedule.geometric.factors': checks.tuple_of(
        'a number >= 0 for each stage', checks.NOT_NEGATIVE.accepts, least=1
    ),
    'schedule.geometric.bias_factor_half_way': checks.NOT_NEGATIVE,
    'mesh.tower': checks.whole(1).or_unset(),
    'mesh.data': checks.whole(1).or_unset(),
    'model.num_classes': checks.whole(1).or_unset(),
    'model.towers': checks.choice(1, 2),
    'model.dtype': checks.choice('float32', 'bfloat16'),
    'model.precision': checks.choice('highest', 'tensorfloat32'),
}


def check(
    config: ml_collections.ConfigDict, rows: Mapping[str, checks.Check]
) -> None:
  """Checks every field of a config, see `checks.complaints`.

  Raises:
    ConfigError: a field is invalid; names it, its value and what is expected.
  """
  for message in checks.complaints(config, rows):
    raise ConfigError(message)


def resolve_paths(config: ml_collections.ConfigDict) -> None:
  """Makes paths absolute, since commands may run in other folders."""
  config.update_from_flattened_dict({
      field: str(paths.local(value, field))
      for field, row in COMMON.items()
      if row is checks.PATH and (value := checks.get(config, field))
  })


def conflicts(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields conflicts between fields that are valid by themselves."""
  yield from fields.conflicts(config)
  if config.batch_size % config.accumulation:
    yield (
        f'batch_size {config.batch_size} cannot be divided equally by '
        f'accumulation {config.accumulation}: set --config.batch_size to a '
        f'multiple of {config.accumulation}'
    )
  if config.until_train_error is not None and config.log_every == 'never':
    yield (
        f"until_train_error is {config.until_train_error} and log_every is "
        "'never': expected lines of the log to have the error"
    )
  if config.schedule.name == 'plateau' and config.evaluate_every == 'never':
    yield (
        "schedule.name is 'plateau', which reads the validation error, but "
        "evaluate_every is 'never': set --config.evaluate_every='1 epochs'"
    )


def check_size(parameters: int) -> None:
  """Raises ConfigError for a network with too many parameters.

  Args:
    parameters: number of parameters, known from shapes before allocation.
  """
  if parameters > MAX_PARAMETERS:
    raise ConfigError(
        f'the network has {parameters:,} parameters, expected at most '
        f'{MAX_PARAMETERS:,}: set fewer features'
    )
