"""Splits a cuda-convnet file into sections of options. Uses no JAX."""

import re
from collections.abc import Callable
from typing import Any

from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet.schema import NEURONS, Neuron

# Limits far beyond any network, within which any line is read at once.
_LONGEST_LINE = 2000
_MOST_SECTIONS = 1000
_LARGEST_WHOLE = 2**24
_LARGEST = 1e30


def whole(text: str) -> int:
  """Parses a whole number; invalid text raises ValueError, as below."""
  value = int(text)
  if abs(value) > _LARGEST_WHOLE:
    raise ValueError
  return value


def number(text: str) -> float:
  """Parses a finite number."""
  value = float(text)
  if not abs(value) <= _LARGEST:
    raise ValueError
  return value


def boolean(text: str) -> bool:
  """Parses true or false, in any of the usual words."""
  values = {'1': True, 'yes': True, 'true': True, 'on': True,
            '0': False, 'no': False, 'false': False, 'off': False}
  if text.lower() not in values:
    raise ValueError
  return values[text.lower()]


def neuron(text: str) -> Neuron:
  """Parses an activation function, such as relu or tanh[1.7,0.6]."""
  match = re.fullmatch(r'(\w+)\s*(?:\[([^\[\]]*)\])?', text)
  if not match or match[1] not in NEURONS:
    raise ValueError(f'expected one of {", ".join(NEURONS)}')
  values = [] if match[2] is None else match[2].split(',')
  if len(values) != NEURONS[match[1]]:
    raise ValueError(f'expected {NEURONS[match[1]]} numbers in [] behind it')
  return Neuron(match[1], tuple(number(value) for value in values))


_KINDS: dict[Callable, str] = {
    whole: f'a whole number, at most {_LARGEST_WHOLE:,}', number: 'a number',
    boolean: 'true or false', str: 'text',
}
REQUIRED: Any = object()


class Section:
  """The options of one section, with their lines and whether they were read."""

  def __init__(self, file: str, name: str, line: int):
    self.file, self.name, self.line = file, name, line
    self.options: dict[str, tuple[str, int]] = {}
    self._known: set[str] = set()

  def error(self, message: str, option: str | None = None) -> ConfigError:
    """Creates an error at the line of an option, or of the section."""
    line = self.options.get((option or '').lower(), ('', self.line))[1]
    return ConfigError(f'{self.file}:{line}: [{self.name}] {message}')

  def has(self, option: str) -> bool:
    """Returns whether the section has an option."""
    return option.lower() in self.options

  def get(self, option: str, kind: Callable = str, default: Any = REQUIRED):
    """Returns an option's value; ConfigError if it is invalid."""
    self._known.add(option)
    # Names of options are not case sensitive in these files.
    text = self.options.get(option.lower(), (None,))[0]
    if text is None:
      if default is REQUIRED:
        raise self.error(f'has no {option}=')
      return default
    try:
      return kind(text)
    except ValueError as error:
      wanted = f'expected {_KINDS[kind]}' if kind in _KINDS else error
      raise self.error(
          f"{option} is '{_shown(text)}': {wanted}", option
      ) from error

  def several(
      self, option: str, count: int, kind: Callable, default: Any = REQUIRED
  ) -> tuple:
    """Returns an option with a value for each of `count` inputs."""
    text = self.get(option, str, None)
    if text is None and default is not REQUIRED:
      return (default,) * count
    values = self.get(option).split(',')
    try:
      values = tuple(kind(value.strip()) for value in values)
    except ValueError as error:
      raise self.error(
          f"{option} is '{_shown(text)}': expected {_KINDS[kind]} for each "
          'input',
          option
      ) from error
    if len(values) != count:
      raise self.error(
          f'{option} has {len(values)} values for {count} inputs: expected one '
          'for each', option
      )
    return values

  def must_be(self, option: str, kind: Callable, values: tuple, why: str):
    """Refuses unsupported values."""
    value = self.get(option, kind, values[0])
    if value not in values:
      raise self.error(f'{option} is {value}: {why}', option)

  def at_least(self, option: str, value: Any, low: float):
    """Refuses values that are too small."""
    if min(value if isinstance(value, tuple) else (value,)) < low:
      raise self.error(f'{option} is {value}: expected at least {low}', option)

  def finish(self):
    """Refuses unknown options."""
    known = {name.lower() for name in self._known}
    for option, (_, line) in self.options.items():
      if option not in known:
        raise ConfigError(
            f'{self.file}:{line}: [{self.name}] unknown option {option}=: '
            + 'expected '
            + ('one of ' + ', '.join(sorted(self._known))
               if self._known else 'none for this layer')
        )


def _shown(text):
  return text if len(text) <= 60 else text[:60] + '...'


def read_sections(
    text: str, file: str, *, repeated: bool
) -> dict[str, Section]:
  """Splits a file into its sections.

  Args:
    text: contents of the file.
    file: its name, for messages.
    repeated: whether a section may occur twice; of a repeated option the last
      counts, as with the authors' reader.

  Raises:
    ConfigError: a line is not a section, option, comment or empty, or is a
      [DEFAULT], whose options the authors' reader adds to all sections.
  """
  sections: dict[str, Section] = {}
  current = None
  for number, line in enumerate(text.splitlines(), 1):
    if len(line) > _LONGEST_LINE or len(sections) > _MOST_SECTIONS:
      raise ConfigError(
          f'{file}:{number}: the line has {len(line):,} characters and '
          f'{len(sections):,} sections are above it: expected at most '
          f'{_LONGEST_LINE:,} and {_MOST_SECTIONS:,}'
      )
    line = line.rstrip()
    if not line or line.lstrip()[:1] in ('#', ';'):
      continue
    if match := re.fullmatch(r'\[([^\]]+)\]', line):
      if match[1] == 'DEFAULT':
        raise ConfigError(
            f"{file}:{number}: [DEFAULT] cannot be read, which gives its "
            'options to all sections: expected them written out in each'
        )
      if match[1] in sections and not repeated:
        raise ConfigError(
            f'{file}:{number}: [{match[1]}] is defined in line '
            f'{sections[match[1]].line} already: give one of them another name'
        )
      section = Section(file, match[1], number)
      current = sections.setdefault(match[1], section)
      continue
    match = re.fullmatch(r'(\w+)\s*[=:]\s*(.*)', line)
    if not match or current is None:
      raise ConfigError(
          f"{file}:{number}: '{line[:60]}' is not understood: expected [name], "
          'key=value, or # and a comment'
          + (' (the first line has to be a [name])' if match else '')
      )
    # In a value only a semicolon after a blank begins a comment.
    value = re.split(r'\s;', match[2])[0].strip()
    current.options[match[1].lower()] = value, number
  return sections
