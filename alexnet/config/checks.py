"""What a field of a config may be: kinds of checks, to be combined.

configs are checked by validation.py; the networks of alexnet/models/ say by
these what their own fields may be.
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

from alexnet.config import intervals
from input_pipeline import preprocessing
from input_pipeline.files import paths
from input_pipeline.images import levels

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


def whole(low: int, high: int = _MANY) -> Check:
  def accepts(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and low <= value <= high

  return Check(f'a whole number from {low} to {high}', accepts)


def _is_number(value):
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return real and -_LARGEST <= value <= _LARGEST


# Float32 has no larger ones; also refuses what is no number.
_LARGEST = 3e38


def number(wanted: str, accepts: Callable[[float], bool]) -> Check:
  return Check(wanted, lambda value: _is_number(value) and accepts(value))


def choice(*values: str | int) -> Check:
  wanted = 'one of ' + ', '.join(map(repr, values))
  # Not `value in values`: 1 is equal to True and to 1.0.
  return Check(
      wanted,
      lambda value: any(
          type(value) is type(one) and value == one for one in values
      ),
  )


def tuple_of(
    wanted: str, accepts: Callable[[Any], bool], *, least: int = 0
) -> Check:
  return Check(
      wanted,
      lambda value: isinstance(value, (tuple, list))
      and len(value) >= least
      and all(map(accepts, value)),
  )


def duration(*, never: bool) -> Check:
  wanted = intervals.WANTED + (", or 'never'" if never else '')
  return Check(
      wanted,
      lambda value: (never and value == 'never') or intervals.is_valid(value),
  )


def is_text(value):
  return isinstance(value, str) and '\0' not in value


ANY = number('a finite number', lambda value: True)
POSITIVE = number('a number > 0', lambda value: value > 0)
NOT_NEGATIVE = number('a number >= 0', lambda value: value >= 0)
BELOW_ONE = number('a number from 0 up to, but not including, 1',
                     lambda value: 0 <= value < 1)
FRACTION = number('more than 0 and less than 1', lambda value: 0 < value < 1)
FLAG = Check('True or False', lambda value: isinstance(value, bool))
TEXT = Check('a text', lambda value: is_text(value) and bool(value))
PATH = Check(
    'a path on this machine',
    lambda value: is_text(value) and not paths.is_address(value),
).or_unset()
# JAX takes the lower half of larger ones, and says nothing.
SEED = whole(0, 2**32 - 1)
BACKGROUND = Check(
    'three levels from 0 to 255, such as (255, 255, 255), or ()',
    levels.is_background,
)
SIDE = whole(1, preprocessing.LARGEST_SQUARE)
PADDING = Check(
    f'two whole numbers from 0 to {preprocessing.LARGEST_SQUARE}, such as '
    '(1, 2)',
    lambda value: isinstance(value, (tuple, list))
    and len(value) == 2
    and all(map(whole(0, preprocessing.LARGEST_SQUARE).accepts, value)),
)
RATE_STEPS = tuple_of(
    "(epoch, layer or path or 'all', 'kernel' or 'bias' or 'both', rate >= 0) "
    'each',
    lambda step: isinstance(step, (tuple, list))
    and len(step) == 4
    and NOT_NEGATIVE.accepts(step[0])
    and is_text(step[1])
    and step[2] in ('kernel', 'bias', 'both')
    and NOT_NEGATIVE.accepts(step[3]),
)
_PAIRS = tuple_of(
    '(layer or path, factor >= 0) each, and each layer or path once',
    lambda pair: isinstance(pair, (tuple, list))
    and len(pair) == 2
    and is_text(pair[0])
    and NOT_NEGATIVE.accepts(pair[1]),
)
LAYER_FACTORS = Check(
    _PAIRS.wanted,
    lambda pairs: _PAIRS.accepts(pairs) and len(dict(pairs)) == len(pairs),
)
