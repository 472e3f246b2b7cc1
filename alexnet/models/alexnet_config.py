"""From the `model` part of configs/alexnet.py to the network of alexnet.py."""

import math
from collections.abc import Iterator

import ml_collections

from alexnet.config import checks
from alexnet.config.errors import ConfigError
from alexnet.models import alexnet
from alexnet.models.layers import DTYPES

_LAYER = {
    'reads': checks.choice(*alexnet.READS),
    'stddev': checks.NOT_NEGATIVE,
    'bias': checks.ANY,
}
_CONVOLUTION = {
    **_LAYER,
    'features': checks.whole(0),
    'size': checks.SIDE,
    'stride': checks.SIDE,
    'padding': checks.PADDING,
    'after': checks.tuple_of(
        'some of ' + ', '.join(map(repr, alexnet.OPERATIONS)),
        lambda value: value in alexnet.OPERATIONS,
    ),
}

# The fields of `model` in configs/alexnet.py.
CHECKS = {
    'model.num_classes': checks.whole(1).or_unset(),
    'model.towers': checks.choice(1, 2),
    'model.width': checks.number(
        'more than 0, at most 64', lambda value: 0 < value <= 64
    ),
    'model.activation': checks.choice(*alexnet.ACTIVATIONS),
    **{
        f'model.{layer}.{name}': check
        for layer in alexnet.CONVOLUTIONS
        for name, check in _CONVOLUTION.items()
    },
    **{
        f'model.{layer}.{name}': check
        for layer in alexnet.DENSE
        for name, check in {
            **_LAYER, 'features': checks.whole(0), 'dropout': checks.BELOW_ONE
        }.items()
    },
    **{f'model.{alexnet.HEAD}.{name}': check for name, check in _LAYER.items()},
    'model.dropout_kind': checks.choice(*alexnet.DROPOUT_KINDS),
    'model.lrn.enabled': checks.FLAG,
    'model.lrn.n': checks.whole(1, 1000),
    'model.lrn.k': checks.NOT_NEGATIVE,
    'model.lrn.alpha': checks.NOT_NEGATIVE,
    'model.lrn.beta': checks.NOT_NEGATIVE,
    'model.lrn.divide_alpha_by_n': checks.FLAG,
    'model.lrn.across_towers': checks.FLAG,
    'model.spatial_norm.enabled': checks.FLAG,
    'model.spatial_norm.size': checks.SIDE,
    'model.spatial_norm.k': checks.NOT_NEGATIVE,
    'model.spatial_norm.alpha': checks.NOT_NEGATIVE,
    'model.spatial_norm.beta': checks.NOT_NEGATIVE,
    'model.pool.window': checks.SIDE,
    'model.pool.stride': checks.SIDE,
}

# The number of outputs is what the data has.
OUTPUTS_ARE_GIVEN = False


def conflicts(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields what is right by itself, and cannot be together."""
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


def complete(config: ml_collections.ConfigDict) -> None:
  """Leaves the config as it is: no file says more about this network."""


def parameter_rules(config: ml_collections.ConfigDict) -> None:
  """None: parameters are trained as `optimizer` and `schedule` say."""


def create(config: ml_collections.ConfigDict) -> alexnet.AlexNet:
  """Builds the module, see `models.create_model`."""
  if not config.num_classes:
    raise ConfigError('model.num_classes is not set, and no dataset gave it')
  config = _narrowed(config)
  _check(config)
  convolutions = []
  for name in alexnet.CONVOLUTIONS:
    spec = alexnet.ConvolutionSpec(**config[name])
    if spec.features:
      convolutions.append((name, spec))
    elif 'pool' in spec.after:
      # A layer left out takes its activation and normalization with it, but
      # not the pooling: the layers behind it keep their sizes.
      spec = alexnet.ConvolutionSpec(**{**config[name], 'after': ('pool',)})
      convolutions.append((name, spec))
  off = [n for n in ('lrn', 'spatial_norm') if not config[n].enabled]
  convolutions = [(name, _without(spec, off)) for name, spec in convolutions]
  dense = [(name, alexnet.DenseSpec(**config[name])) for name in alexnet.DENSE]
  dense = [(name, spec) for name, spec in dense if spec.features]
  head = alexnet.DenseSpec(features=config.num_classes, **config[alexnet.HEAD])
  return alexnet.AlexNet(
      convolutions=tuple(convolutions),
      dense=(*dense, (alexnet.HEAD, head)),
      towers=config.towers,
      activation=config.activation,
      lrn=alexnet.LRNSpec(**config.lrn),
      spatial_norm=alexnet.SpatialNormSpec(**config.spatial_norm),
      pool=alexnet.PoolSpec(**config.pool),
      dropout_kind=config.dropout_kind,
      dtype=DTYPES[config.dtype],
  )


def _narrowed(config):
  """A copy with `width` times the features.

  A kernel that reads 1 / width as many features draws its weights from a
  distribution so much wider that its outputs keep their size. At the paper's
  0.01 a network of a quarter of the features would say the same of all images.
  """
  if config.width <= 0:
    raise ConfigError(f'model.width is {config.width}: wanted more than 0')
  config = config.copy_and_resolve_references()
  # A whole number in a file, which no fraction may replace.
  config = ml_collections.ConfigDict(config.to_dict(), type_safe=False)
  for name in (*alexnet.CONVOLUTIONS, *alexnet.DENSE, alexnet.HEAD):
    layer = config[name]
    if layer.reads != 'image':
      layer.stddev /= math.sqrt(config.width)
    if name != alexnet.HEAD:
      layer.features = round(layer.features * config.width)
  return config


def _without(spec, operations):
  after = tuple(o for o in spec.after if o not in operations)
  return alexnet.ConvolutionSpec(**{**vars(spec), 'after': after})


def _check(config):
  _choice('towers', config.towers, (1, 2))
  _choice('activation', config.activation, tuple(alexnet.ACTIVATIONS))
  _choice('dropout_kind', config.dropout_kind, alexnet.DROPOUT_KINDS)
  _choice('dtype', config.dtype, tuple(DTYPES))
  if not 1 <= config.pool.stride <= config.pool.window:
    raise ConfigError(
        f'model.pool has window {config.pool.window} and stride '
        f'{config.pool.stride}: wanted 1 <= stride <= window'
    )
  for name in (*alexnet.CONVOLUTIONS, *alexnet.DENSE):
    features = config[name].features
    if features < 0 or features % config.towers:
      raise ConfigError(
          f'model.{name}.features is {features}, which cannot be shared '
          f'equally by {config.towers} towers: wanted 0 (no such layer) or a '
          f'positive multiple of {config.towers}'
      )
  if config.lrn.n < 1 or config.spatial_norm.size < 1:
    raise ConfigError(
        f'model.lrn.n is {config.lrn.n} and model.spatial_norm.size is '
        f'{config.spatial_norm.size}: wanted at least 1'
    )
  for name in alexnet.CONVOLUTIONS:
    layer = config[name]
    if layer.size < 1 or layer.stride < 1:
      raise ConfigError(
          f'model.{name} has size {layer.size} and stride {layer.stride}: '
          'wanted at least 1'
      )
    if len(layer.padding) != 2 or any(
        not isinstance(rows, int) or rows < 0 for rows in layer.padding
    ):
      raise ConfigError(
          f'model.{name}.padding is {layer.padding!r}: wanted two numbers of '
          'rows, such as (1, 2)'
      )
    for operation in layer.after:
      _choice(f'{name}.after', operation, alexnet.OPERATIONS)
  for name in alexnet.DENSE:
    if not 0 <= config[name].dropout < 1:
      raise ConfigError(
          f'model.{name}.dropout is {config[name].dropout}: wanted a '
          'probability from 0 up to, but not including, 1'
      )
  _check_reads(config)


def _check_reads(config):
  exist = [n for n in alexnet.CONVOLUTIONS if config[n].features]
  if not exist:
    raise ConfigError('model has no convolution: every features is 0')
  for name in (*exist, *alexnet.DENSE, alexnet.HEAD):
    _choice(f'{name}.reads', config[name].reads, alexnet.READS)
    if (config[name].reads == 'image') != (name == exist[0]):
      raise ConfigError(
          f"model.{name}.reads is '{config[name].reads}': {exist[0]} is the "
          "first layer and reads 'image', all others 'own' or 'both'"
      )
  if config[alexnet.HEAD].reads == 'own' and config.num_classes % config.towers:
    raise ConfigError(
        f"model.{alexnet.HEAD}.reads is 'own', but {config.num_classes} "
        f"classes cannot be shared by {config.towers} towers: wanted 'both'"
    )


def _choice(field, value, choices):
  if value not in choices:
    raise ConfigError(
        f'model.{field} is {value!r}, wanted one of '
        + ', '.join(map(repr, choices))
    )
