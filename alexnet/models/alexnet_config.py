"""Builds AlexNet from the `model` part of configs/alexnet.py."""

import math

import ml_collections

from alexnet.config.errors import ConfigError
from alexnet.models import Network, alexnet
from alexnet.models.layers import DTYPES
from input_pipeline.config import checks
from input_pipeline.images.allowed import LARGEST_SQUARE

# Rows or columns of zero padding.
_ROWS = checks.whole(0, LARGEST_SQUARE)
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
    'padding': checks.Check(
        f'two of {_ROWS.wanted}, such as (1, 2)',
        lambda value: isinstance(value, (tuple, list))
        and len(value) == 2
        and all(map(_ROWS.accepts, value)),
    ),
    'after': checks.tuple_of(
        'some of ' + ', '.join(map(repr, alexnet.OPERATIONS)),
        lambda value: value in alexnet.OPERATIONS,
    ),
}

# The fields of `model` in configs/alexnet.py.
_CHECKS = {
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


def _conflicts(config):
  """Yields conflicts between fields that are valid by themselves."""
  model = _narrowed(config.model)
  if model.pool.stride > model.pool.window:
    yield (
        f'model.pool has window {model.pool.window} and stride '
        f'{model.pool.stride}: expected 1 <= stride <= window'
    )
  for name in (*alexnet.CONVOLUTIONS, *alexnet.DENSE):
    features = model[name].features
    if features % model.towers:
      yield (
          f'model.{name}.features is {features}, which cannot be shared '
          f'equally by {model.towers} towers: expected 0 (no such layer) or a '
          f'positive multiple of {model.towers}'
      )
  exist = [name for name in alexnet.CONVOLUTIONS if model[name].features]
  if not exist:
    yield 'model has no convolution: every features is 0'
    return
  for name in (*exist, *alexnet.DENSE, alexnet.HEAD):
    if (model[name].reads == 'image') != (name == exist[0]):
      yield (
          f"model.{name}.reads is '{model[name].reads}': {exist[0]} is the "
          "first layer and reads 'image', all others 'own' or 'both'"
      )


def _create(config):
  """Builds the module, see `models.create_model`."""
  config = _narrowed(config)
  head = alexnet.DenseSpec(features=config.num_classes, **config[alexnet.HEAD])
  if not head.features:
    raise ConfigError('model.num_classes is not set, and no dataset gave it')
  if head.reads == 'own' and head.features % config.towers:
    raise ConfigError(
        f"model.{alexnet.HEAD}.reads is 'own', but {head.features} classes "
        f"cannot be shared by {config.towers} towers: expected 'both'"
    )
  convolutions = []
  for name in alexnet.CONVOLUTIONS:
    spec = alexnet.ConvolutionSpec(**config[name])
    if spec.features:
      convolutions.append((name, spec))
    elif 'pool' in spec.after:
      # A removed layer also loses its activation and normalization, but not
      # its pooling, so that later layers keep their sizes.
      spec = alexnet.ConvolutionSpec(**{**config[name], 'after': ('pool',)})
      convolutions.append((name, spec))
  off = [n for n in ('lrn', 'spatial_norm') if not config[n].enabled]
  convolutions = [(name, _without(spec, off)) for name, spec in convolutions]
  dense = [(name, alexnet.DenseSpec(**config[name])) for name in alexnet.DENSE]
  dense = [(name, spec) for name, spec in dense if spec.features]
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
      precision=config.precision,
  )


def _narrowed(config):
  """Returns a copy with `width` times the features.

  Initial weights are scaled by 1 / sqrt(width), so that outputs keep their
  scale. With the paper's 0.01, a network of a quarter of the width would
  predict the same for all images.
  """
  config = config.copy_and_resolve_references()
  # Whole numbers of the file may become fractions here.
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


NETWORK = Network(create=_create, checks=_CHECKS, conflicts=_conflicts)
