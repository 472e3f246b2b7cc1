"""Looks at every field of a config before anything else happens.

One row a field. That fields fit each other is at the end; what depends on the
data, the devices or the layers' names is checked where these are known, and a
network's own fields are in its module, see `models.check`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from alexnet.config import checks
from alexnet.config.errors import ConfigError
from input_pipeline.files import paths
from input_pipeline.files.untrusted import shown

# Of a network; twelve bytes each in training.
MAX_PARAMETERS = 2**30

# Of every config. {dotted field: check}
COMMON = {
    'seed': checks.SEED,
    'batch_size': checks.whole(1),
    'accumulation': checks.whole(1),
    'duration': checks.duration(never=False),
    'until_train_error': checks.BELOW_ONE.or_unset(),
    'evaluate_every': checks.duration(never=True),
    'checkpoint_every': checks.duration(never=True),
    'log_every': checks.duration(never=True),
    'keep_checkpoints': checks.whole(1),
    'keep_best': checks.whole(0),
    'bad_steps.action': checks.choice('stop', 'skip', 'rollback'),
    'bad_steps.spike': checks.number(
        'a number > 1', lambda value: value > 1
    ).or_unset(),
    'bad_steps.limit': checks.whole(1),
    'evaluation_batch_size': checks.whole(1),
    'ten_views': checks.FLAG,
    'layer_statistics_images': checks.whole(0),
    'log_images': checks.FLAG,
    'pretrained.workdir': checks.PATH,
    'pretrained.layers': checks.tuple_of(
        "names of layers, such as ('conv1',)", checks.is_text
    ),
    'optimizer.momentum': checks.BELOW_ONE,
    'optimizer.weight_decay': checks.NOT_NEGATIVE,
    'optimizer.bias_rate_multiplier': checks.NOT_NEGATIVE,
    'optimizer.bias_decay_multiplier': checks.NOT_NEGATIVE,
    'optimizer.layer_rate_factors': checks.LAYER_FACTORS,
    'schedule.name': checks.choice(
        'constant', 'plateau', 'steps', 'geometric', 'definition'
    ),
    'schedule.learning_rate': checks.POSITIVE,
    'schedule.batch_scaling': checks.choice('none', 'linear', 'sqrt'),
    'schedule.reference_batch_size': checks.whole(1),
    'schedule.warmup_epochs': checks.NOT_NEGATIVE,
    'schedule.plateau.patience': checks.whole(1),
    'schedule.plateau.factor': checks.number(
        'more than 0, at most 1', lambda value: 0 < value <= 1
    ),
    'schedule.plateau.max_drops': checks.whole(0),
    'schedule.steps': checks.RATE_STEPS,
    'schedule.geometric.factors': checks.tuple_of(
        'a number >= 0 for each stage', checks.NOT_NEGATIVE.accepts, least=1
    ),
    'schedule.geometric.bias_factor_half_way': checks.NOT_NEGATIVE,
    'dataset.name': checks.TEXT,
    'dataset.train_dir': checks.PATH,
    'dataset.eval_dir': checks.PATH,
    'dataset.eval_fraction': checks.FRACTION,
    'dataset.split_seed': checks.SEED.or_unset(),
    'dataset.copies': checks.choice('warn', 'together'),
    'dataset.dir': checks.PATH,
    'dataset.train_split': checks.TEXT,
    'dataset.eval_split': checks.TEXT,
    'dataset.size': checks.SIDE,
    'dataset.background': checks.BACKGROUND,
    'dataset.order': checks.choice('index_shuffle', 'argsort'),
    'dataset.statistics_dir': checks.PATH,
    'dataset.stalled_after': checks.POSITIVE,
    'dataset.mean': checks.choice('image', 'channels', 'imagenet_channels'),
    'dataset.pca': checks.choice('imagenet', 'dataset'),
    'augmentation.crop_size': checks.SIDE,
    'augmentation.crop_offsets': checks.SIDE,
    'augmentation.flip': checks.FLAG,
    'augmentation.images_per_crop': checks.whole(1),
    'augmentation.mean_crop': checks.choice('under', 'centre'),
    'augmentation.lighting': checks.choice(
        'eigenvalue', 'standard_deviation', 'none'
    ),
    'augmentation.lighting_scale': checks.NOT_NEGATIVE,
    'augmentation.lighting_divisor': checks.POSITIVE,
    'augmentation.lighting_until_epoch': checks.NOT_NEGATIVE.or_unset(),
    'mesh.tower': checks.whole(1).or_unset(),
    'mesh.data': checks.whole(1).or_unset(),
    'model.dtype': checks.choice('float32', 'bfloat16'),
}

_MISSING = object()


def check(
    config: ml_collections.ConfigDict, rows: Mapping[str, checks.Check]
) -> None:
  """Looks at every field of a config.

  Args:
    config: the whole config, as from configs/ or a workdir.
    rows: {dotted field: what it may be}, of the fields that it has to have.

  Raises:
    ConfigError: names the field, what it is and what is wanted.
  """
  for field, row in rows.items():
    value = get(config, field, _MISSING)
    if value is _MISSING:
      raise ConfigError(f'{field} is not there: wanted {row.wanted}')
    if not row.accepts(value):
      raise ConfigError(f'{field} is {shown(value)}: wanted {row.wanted}')


def resolve_paths(config: ml_collections.ConfigDict) -> None:
  """Makes paths absolute: a run is not always looked at from one folder."""
  config.update_from_flattened_dict({
      field: str(paths.local(value, field))
      for field, row in COMMON.items()
      if row is checks.PATH and (value := get(config, field))
  })


def get(
    config: ml_collections.ConfigDict, field: str, default: Any = None
) -> Any:
  """A dotted field of a config, or a default where it has none."""
  value = config
  for name in field.split('.'):
    if not isinstance(value, ml_collections.ConfigDict) or name not in value:
      return default
    value = value[name]
  return value


def conflicts(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is right by itself, and cannot be together."""
  size, crop = config.dataset.size, config.augmentation.crop_size
  if crop > size:
    yield (
        f'augmentation.crop_size is {crop} and dataset.size is {size}: wanted '
        'a crop that is not larger than the image'
    )
  if config.augmentation.crop_offsets > size - crop + 1:
    yield (
        f'augmentation.crop_offsets is {config.augmentation.crop_offsets}: '
        f'wanted 1 to {size - crop + 1}, which fit a {crop} crop into {size} '
        'pixels'
    )
  if config.batch_size % config.accumulation:
    yield (
        f'batch_size {config.batch_size} cannot be divided equally by '
        f'accumulation {config.accumulation}: set --config.batch_size to a '
        f'multiple of {config.accumulation}'
    )
  if config.until_train_error is not None and config.log_every == 'never':
    yield (
        f"until_train_error is {config.until_train_error} and log_every is "
        "'never': wanted lines of the log to have the error"
    )
  if config.schedule.name == 'plateau' and config.evaluate_every == 'never':
    yield (
        "schedule.name is 'plateau', which reads the validation error, but "
        "evaluate_every is 'never': set --config.evaluate_every='1 epochs'"
    )


def check_size(parameters: int) -> None:
  """Raises ConfigError for a network that nothing here could hold.

  Args:
    parameters: their number, known from shapes before there are arrays.
  """
  if parameters > MAX_PARAMETERS:
    raise ConfigError(
        f'the network has {parameters:,} parameters, wanted at most '
        f'{MAX_PARAMETERS:,}: set fewer features'
    )
