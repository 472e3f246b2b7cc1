"""Composable checks of config fields.

Each part of the program declares with them what its fields may be.
"""

import dataclasses
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from input_pipeline.files import paths
from input_pipeline.files.untrusted import shown
from input_pipeline.images import allowed

_MANY = 2**20
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Check:
  """A check of a field.

  Attributes:
    wanted: description of valid values.
    accepts: whether a value is valid.
  """

  wanted: str
  accepts: Callable[[Any], bool]

  def or_unset(self) -> 'Check':
    """Returns a check that accepts None as well."""
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


# Largest float32; the comparison also refuses NaN.
_LARGEST = 3e38


def number(wanted: str, accepts: Callable[[float], bool]) -> Check:
  return Check(wanted, lambda value: _is_number(value) and accepts(value))


def choice(*values: str | int) -> Check:
  wanted = 'one of ' + ', '.join(map(repr, values))
  # `value in values` would accept True and 1.0 for 1.
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
# JAX silently drops the upper bits of larger seeds.
SEED = whole(0, 2**32 - 1)
BACKGROUND = Check(
    'three levels from 0 to 255, such as (255, 255, 255), or ()',
    allowed.is_background,
)
SIDE = whole(1, allowed.LARGEST_SQUARE)


def complaints(
    config: ml_collections.ConfigDict, rows: Mapping[str, Check]
) -> Iterator[str]:
  """Yields a message for each field with an invalid value.

  Args:
    config: the whole config, from configs/ or a workdir.
    rows: {dotted field: its check} of the required fields.
  """
  for field, row in rows.items():
    value = get(config, field, _MISSING)
    if value is _MISSING:
      yield f'{field} is not there: expected {row.wanted}'
    elif not row.accepts(value):
      yield f'{field} is {shown(value)}: expected {row.wanted}'


def get(
    config: ml_collections.ConfigDict, field: str, default: Any = None
) -> Any:
  """Returns a dotted field of a config, or a default if it is missing."""
  value = config
  for name in field.split('.'):
    if not isinstance(value, ml_collections.ConfigDict) or name not in value:
      return default
    value = value[name]
  return value
