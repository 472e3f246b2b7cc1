"""Published and logged numbers to compare runs with."""

import dataclasses
from collections.abc import Callable
from typing import Any

from configs import alexnet

ILSVRC_2010 = 'ILSVRC-2010 test'
ILSVRC_2012 = 'ILSVRC-2012 validation'


@dataclasses.dataclass(frozen=True)
class Reference:
  """A reported error rate."""

  name: str  # Name of the run, with its source.
  data: str  # Name of the evaluation set.
  views: str  # 'centre' or 'ten'.
  top1: tuple[float, float]  # Lowest and highest, in percent.
  top5: tuple[float, float]  # The same.
  same_network: bool = True  # Whether it is the paper's single network.


def _one(name, data, views, top1, top5, same_network=True):
  pair = lambda x: (x, x)
  return Reference(name, data, views, pair(top1), pair(top5), same_network)


REFERENCES = (
    _one('paper, Table 2, 1 CNN = run #145', ILSVRC_2012, 'ten',
         40.6640, 18.2100),
    _one('paper, Table 1, CNN = run #145-2010', ILSVRC_2010, 'ten',
         37.4727, 16.9987),
    _one('paper §6, Table 1 without ten views', ILSVRC_2010, 'centre',
         39.0, 18.3),
    Reference('later runs of the network (#155, #156, #170)', ILSVRC_2012,
              'centre', (42.3, 42.9), (19.6, 20.0)),
    _one('a later run with four equal stages', ILSVRC_2012, 'centre',
         42.34, 19.58),
    _one('Caffe, AlexNet', ILSVRC_2012, 'centre', 42.9, 19.8),
    _one('torchvision, alexnet: another network, one column', ILSVRC_2012,
         'centre', 43.5, 20.9, same_network=False),
    _one('paper, Table 2, 5 CNNs', ILSVRC_2012, 'ten', 38.1, 16.4,
         same_network=False),
    _one('paper, Table 2, 1 CNN* (six convolutions, pretrained)', ILSVRC_2012,
         'ten', 39.0, 16.6, same_network=False),
    _one('run #146-2012-2009 (six convolutions, pretrained)', ILSVRC_2012,
         'ten', 39.10, 16.876, same_network=False),
    _one('paper, Table 2, 7 CNNs*', ILSVRC_2012, 'ten', 36.7, 15.4,
         same_network=False),
)

# Gain of ten views over the centre crop on ImageNet: points of top-1, top-5.
GAIN_OF_TEN_VIEWS = ((1.5, 2.1), (1.3, 1.5))


@dataclasses.dataclass(frozen=True)
class Effect:
  """Known effect of a field's value on the ImageNet error."""

  field: str  # Prefix of the field's name.
  holds: Callable[[Any], bool]  # Whether it applies to a value (not None).
  text: str  # Effect, with its source; points are of top-1 / top-5 error.


_ANY = lambda value: True
_ZERO = lambda value: value == 0
_OFF = lambda value: value is False
_PAPER = alexnet.get_config('imagenet2012')
# The text names the network that was tried: smaller single layers were not.
_HALF = (
    'one tower of half the kernels, in conv1 to conv4, costs 1.7 / 1.2 points '
    '(paper §3.2; run #145-half)'
)
_RATES = (
    'the paper divides the rate by 10 three times, when the error stops '
    'improving (§5)'
)
_VARIANTS = (
    'without crops and mirror images there is "substantial overfitting" (paper '
    '§4.1)'
)
_END = (
    'the paper trains for about 90 epochs; a run that ends before the rate has '
    'dropped three times is not at its end'
)


def _less_than(reference):
  """Matches smaller positive values; larger ones have no known effect."""
  return lambda value: 0 < value < reference


# The first match of field and value counts. Changes without reported effects,
# such as more features or one tower with all kernels, are not listed.
EFFECTS = (
    Effect('model.lrn.enabled', _OFF,
           'no response normalization costs 1.4 / 1.2 points (paper §3.3; run '
           '#148)'),
    Effect('model.pool.window', lambda value: value <= 2,
           'pooling that does not overlap, windows of 2 at a stride of 2, '
           'costs 0.4 / 0.3 points (paper §3.4; run #147)'),
    Effect('model.conv6.features', lambda value: value > 0,
           'a sixth convolution and pretraining together gain 1.7 / 1.6 points '
           '(paper, Table 2)'),
    *(Effect(f'model.conv{i}.features', _ZERO,
             'without a middle convolution about 2 points of top-1 are lost '
             '(paper §7)')
      for i in (3, 4, 5)),
    *(Effect(f'model.{layer}.reads', lambda value: value == 'own',
             'towers that meet in the logits only, not in conv3, fc6 and fc7: '
             '41.83 / 19.33 % (run #150, with other widths)')
      for layer in ('conv3', 'fc6', 'fc7')),
    *(Effect(f'model.{layer}.features',
             _less_than(_PAPER.model[layer].features), _HALF)
      for layer in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')),
    Effect('model.width', _less_than(_PAPER.model.width), _HALF),
    *(Effect(f'model.{layer}.dropout', _ZERO,
             'without dropout there is "substantial overfitting" (paper §4.2)')
      for layer in ('fc6', 'fc7')),
    Effect('model.dropout_kind', lambda value: value == 'inverted',
           'initial logits are twice as large, and updates four times as '
           'large, for each layer with dropout'),
    Effect('model.activation', lambda value: value == 'tanh',
           'tanh takes about six times as long to 25 % training error on '
           'CIFAR-10 (paper §3.1)'),
    Effect('augmentation.lighting_divisor', lambda value: value > 100,
           'with inputs divided by 255 the initial logits of different images '
           'differ by only 0.000013, so the loss stays constant at first'),
    Effect('augmentation.lighting', lambda value: value == 'none',
           'no PCA lighting costs more than 1 point of top-1 (paper §4.1)'),
    Effect('augmentation.crop_offsets', lambda value: value < 16, _VARIANTS),
    Effect('augmentation.flip', _OFF, _VARIANTS),
    Effect('duration', _ANY, _END),
    Effect('until_train_error', _ANY, _END),
    *(Effect(f'schedule.{field}', _ANY, _RATES)
      for field in ('name', 'plateau.', 'steps', 'geometric.')),
    Effect('optimizer.weight_decay',
           lambda value: value < _PAPER.optimizer.weight_decay,
           'decay "was important for the model to learn" (paper §5)'),
)


def effect_of(field: str, value: Any) -> str | None:
  """Returns the known effect of a field with this value, or None."""
  if value is None:
    return None
  found = (
      e.text for e in EFFECTS if field.startswith(e.field) and e.holds(value)
  )
  return next(found, None)
