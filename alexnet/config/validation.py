"""What each field of a config may be, looked at before anything else happens.

One row a field. That fields fit each other is at the end; what depends on the
data, the devices or the layers' names is checked where these are known.
"""

import dataclasses
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from alexnet.config import intervals
from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet import config as definitions
from alexnet.cuda_convnet.schema import MAX_PARAMETERS
from alexnet.training import bad_steps
from input_pipeline import preprocessing
from input_pipeline.files.untrusted import shown

_CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6')
_DENSE = ('fc6', 'fc7')
_OPERATIONS = ('activation', 'lrn', 'spatial_norm', 'pool')
_MANY = 2**20


@dataclasses.dataclass(frozen=True)
class Check:
  """What a field may be.

  Attributes:
    wanted: in words.
    accepts: whether a value is that.
  """

  wanted: str
  accepts: Callable[[Any], bool]

  def or_unset(self) -> 'Check':
    """The same, or None."""
    return Check(
        f'{self.wanted}, or unset',
        lambda value: value is None or self.accepts(value),
    )


def _whole(low: int, high: int = _MANY) -> Check:
  def accepts(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and low <= value <= high

  return Check(f'a whole number from {low} to {high}', accepts)


def _is_number(value):
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return real and -_LARGEST <= value <= _LARGEST


# Float32 has no larger ones; also refuses what is no number.
_LARGEST = 3e38


def _number(wanted: str, accepts: Callable[[float], bool]) -> Check:
  return Check(wanted, lambda value: _is_number(value) and accepts(value))


def _choice(*values: str | int) -> Check:
  wanted = 'one of ' + ', '.join(map(repr, values))
  # Not `value in values`: 1 is equal to True and to 1.0.
  return Check(
      wanted,
      lambda value: any(
          type(value) is type(one) and value == one for one in values
      ),
  )


def _tuple_of(
    wanted: str, accepts: Callable[[Any], bool], *, least: int = 0
) -> Check:
  return Check(
      wanted,
      lambda value: isinstance(value, (tuple, list))
      and len(value) >= least
      and all(map(accepts, value)),
  )


def _duration(*, never: bool) -> Check:
  wanted = intervals.WANTED + (", or 'never'" if never else '')
  return Check(
      wanted,
      lambda value: (never and value == 'never') or intervals.is_valid(value),
  )


def _is_text(value):
  return isinstance(value, str) and '\0' not in value


_ANY = _number('a finite number', lambda value: True)
_POSITIVE = _number('a number > 0', lambda value: value > 0)
_NOT_NEGATIVE = _number('a number >= 0', lambda value: value >= 0)
_BELOW_ONE = _number('a number from 0 up to, but not including, 1',
                     lambda value: 0 <= value < 1)
_FRACTION = _number('more than 0 and less than 1', lambda value: 0 < value < 1)
_FLAG = Check('True or False', lambda value: isinstance(value, bool))
_TEXT = Check('a text', lambda value: _is_text(value) and bool(value))
_PATH = Check('a path', _is_text).or_unset()
# JAX takes the lower half of larger ones, and says nothing.
_SEED = _whole(0, 2**32 - 1)
_SIDE = _whole(1, preprocessing.LARGEST_SQUARE)
_PADDING = Check(
    f'two whole numbers from 0 to {preprocessing.LARGEST_SQUARE}, such as '
    '(1, 2)',
    lambda value: isinstance(value, (tuple, list))
    and len(value) == 2
    and all(map(_whole(0, preprocessing.LARGEST_SQUARE).accepts, value)),
)
_RATE_STEPS = _tuple_of(
    "(epoch, layer or 'all', 'kernel' or 'bias' or 'both', rate >= 0) each",
    lambda step: isinstance(step, (tuple, list))
    and len(step) == 4
    and _NOT_NEGATIVE.accepts(step[0])
    and _is_text(step[1])
    and step[2] in ('kernel', 'bias', 'both')
    and _NOT_NEGATIVE.accepts(step[3]),
)
_LAYER_FACTORS = _tuple_of(
    "(layer, factor >= 0) each, such as ('conv1', 0.1)",
    lambda pair: isinstance(pair, (tuple, list))
    and len(pair) == 2
    and _is_text(pair[0])
    and _NOT_NEGATIVE.accepts(pair[1]),
)

# Of every config. {dotted field: check}
_COMMON = {
    'seed': _SEED,
    'batch_size': _whole(1),
    'accumulation': _whole(1),
    'duration': _duration(never=False),
    'until_train_error': _BELOW_ONE.or_unset(),
    'evaluate_every': _duration(never=True),
    'checkpoint_every': _duration(never=True),
    'log_every': _duration(never=True),
    'keep_checkpoints': _whole(1),
    'keep_best': _whole(0),
    'bad_steps.action': _choice(*bad_steps.ACTIONS),
    'bad_steps.spike': _number(
        'a number > 1', lambda value: value > 1
    ).or_unset(),
    'bad_steps.limit': _whole(1),
    'evaluation_batch_size': _whole(1),
    'ten_views': _FLAG,
    'layer_statistics_images': _whole(0),
    'log_images': _FLAG,
    'pretrained.workdir': _PATH,
    'pretrained.layers': _tuple_of("names of layers, such as ('conv1',)",
                                   _is_text),
    'optimizer.momentum': _BELOW_ONE,
    'optimizer.weight_decay': _NOT_NEGATIVE,
    'optimizer.bias_rate_multiplier': _NOT_NEGATIVE,
    'optimizer.bias_decay_multiplier': _NOT_NEGATIVE,
    'optimizer.layer_rate_factors': _LAYER_FACTORS,
    'schedule.name': _choice(
        'constant', 'plateau', 'steps', 'geometric', 'definition'
    ),
    'schedule.learning_rate': _POSITIVE,
    'schedule.batch_scaling': _choice('none', 'linear', 'sqrt'),
    'schedule.reference_batch_size': _whole(1),
    'schedule.warmup_epochs': _NOT_NEGATIVE,
    'schedule.plateau.patience': _whole(1),
    'schedule.plateau.factor': _number('more than 0, at most 1',
                                       lambda value: 0 < value <= 1),
    'schedule.plateau.max_drops': _whole(0),
    'schedule.steps': _RATE_STEPS,
    'schedule.geometric.factors': _tuple_of(
        'a number >= 0 for each stage', _NOT_NEGATIVE.accepts, least=1
    ),
    'schedule.geometric.bias_factor_half_way': _NOT_NEGATIVE,
    'dataset.name': _TEXT,
    'dataset.train_dir': _PATH,
    'dataset.eval_dir': _PATH,
    'dataset.eval_fraction': _FRACTION,
    'dataset.split_seed': _SEED.or_unset(),
    'dataset.dir': _PATH,
    'dataset.train_split': _TEXT,
    'dataset.eval_split': _TEXT,
    'dataset.size': _SIDE,
    'dataset.statistics_dir': _PATH,
    'dataset.stalled_after': _POSITIVE,
    'dataset.mean': _choice('image', 'channels', 'imagenet_channels'),
    'dataset.pca': _choice('imagenet', 'dataset'),
    'augmentation.crop_size': _SIDE,
    'augmentation.crop_offsets': _SIDE,
    'augmentation.flip': _FLAG,
    'augmentation.images_per_crop': _whole(1),
    'augmentation.mean_crop': _choice('under', 'centre'),
    'augmentation.lighting': _choice(
        'eigenvalue', 'standard_deviation', 'none'
    ),
    'augmentation.lighting_scale': _NOT_NEGATIVE,
    'augmentation.lighting_divisor': _POSITIVE,
    'augmentation.lighting_until_epoch': _NOT_NEGATIVE.or_unset(),
    'mesh.tower': _whole(1).or_unset(),
    'mesh.data': _whole(1).or_unset(),
    'model.name': _choice('alexnet', definitions.NAME),
    'model.dtype': _choice('float32', 'bfloat16'),
}

_LAYER = {
    'reads': _choice('image', 'own', 'both'),
    'stddev': _NOT_NEGATIVE,
    'bias': _ANY,
}
_CONVOLUTION = {
    **_LAYER,
    'features': _whole(0),
    'size': _SIDE,
    'stride': _SIDE,
    'padding': _PADDING,
    'after': _tuple_of(
        'some of ' + ', '.join(map(repr, _OPERATIONS)),
        lambda value: value in _OPERATIONS,
    ),
}

# Of a network of configs/alexnet.py.
_ALEXNET = {
    'model.num_classes': _whole(1).or_unset(),
    'model.towers': _choice(1, 2),
    'model.width': _number('more than 0, at most 64',
                           lambda value: 0 < value <= 64),
    'model.activation': _choice('relu', 'tanh', 'sigmoid'),
    **{
        f'model.{layer}.{name}': check
        for layer in _CONVOLUTIONS
        for name, check in _CONVOLUTION.items()
    },
    **{
        f'model.{layer}.{name}': check
        for layer in _DENSE
        for name, check in {
            **_LAYER, 'features': _whole(0), 'dropout': _BELOW_ONE
        }.items()
    },
    **{f'model.fc8.{name}': check for name, check in _LAYER.items()},
    'model.dropout_kind': _choice('paper', 'inverted'),
    'model.lrn.enabled': _FLAG,
    'model.lrn.n': _whole(1, 1000),
    'model.lrn.k': _NOT_NEGATIVE,
    'model.lrn.alpha': _NOT_NEGATIVE,
    'model.lrn.beta': _NOT_NEGATIVE,
    'model.lrn.divide_alpha_by_n': _FLAG,
    'model.lrn.across_towers': _FLAG,
    'model.spatial_norm.enabled': _FLAG,
    'model.spatial_norm.size': _SIDE,
    'model.spatial_norm.k': _NOT_NEGATIVE,
    'model.spatial_norm.alpha': _NOT_NEGATIVE,
    'model.spatial_norm.beta': _NOT_NEGATIVE,
    'model.pool.window': _SIDE,
    'model.pool.stride': _SIDE,
}

# Of one of configs/cuda_convnet.py, whose files say the rest; what is unset is
# filled in from them.
_DEFINITION = {
    'layers': Check('the path of a layer definition', _is_text),
    'layer_params': _PATH,
    'restart_rates': _FLAG,
    'ignore_init_functions': _FLAG,
    'model.layers_text': Check('a text', _is_text).or_unset(),
    'model.params_text': Check('a text', _is_text).or_unset(),
    'model.image_size': _SIDE.or_unset(),
    'model.num_classes': _whole(1).or_unset(),
    'model.towers': _choice(1, 2).or_unset(),
    'optimizer.momentum': _BELOW_ONE.or_unset(),
    'augmentation.flip': _FLAG.or_unset(),
    'augmentation.lighting': _COMMON['augmentation.lighting'].or_unset(),
}
_NOT_OF_DEFINITIONS = (
    'optimizer.weight_decay', 'optimizer.bias_decay_multiplier'
)


def checks(config: ml_collections.ConfigDict) -> dict[str, Check]:
  """The check of each field that a config has to have.

  Args:
    config: the whole config; `model.name` says of which kind.
  """
  if get(config, 'model.name') != definitions.NAME:
    return _COMMON | _ALEXNET
  of_definition = _COMMON | _DEFINITION
  return {
      field: check for field, check in of_definition.items()
      if field not in _NOT_OF_DEFINITIONS
  }


def check(config: ml_collections.ConfigDict) -> None:
  """Looks at every field of a config.

  Args:
    config: the whole config, as from configs/ or a workdir.

  Raises:
    ConfigError: names the field, what it is and what is wanted.
  """
  # First the name, by which it is known which fields there have to be.
  name = {'model.name': _COMMON['model.name']}
  for field, row in (name | checks(config)).items():
    value = get(config, field, _MISSING)
    if value is _MISSING:
      raise ConfigError(f'{field} is not there: wanted {row.wanted}')
    if not row.accepts(value):
      raise ConfigError(f'{field} is {shown(value)}: wanted {row.wanted}')
  for message in _conflicts(config):
    raise ConfigError(message)


_MISSING = object()


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


def _conflicts(config) -> Iterator[str]:
  """What is right by itself, and cannot be together."""
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
  if config.model.name == definitions.NAME:
    return
  if config.schedule.name == 'definition':
    yield (
        "schedule.name is 'definition', but no definition file has made this "
        'network: use configs/cuda_convnet.py, or another schedule'
    )
  pool = config.model.pool
  if pool.stride > pool.window:
    yield (
        f'model.pool has window {pool.window} and stride {pool.stride}: wanted '
        '1 <= stride <= window'
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
