"""Learning rates in a cuda-convnet parameter file.

A rate is a function of the run's progress, from 0 at its first step to 1 at its
end. The forms are those of src/lr.cu in the authors' code. Uses no JAX.
"""

import dataclasses
import math
import re

# These take [factor,noise,stages] or [factor,stages], the others [factor,noise]
# or [factor]. Newer files name the arguments:
# dexp[tgtFactor=250,noiseStdev=0,numSteps=4].
_STAGED = ('dexp', 'jdexp')
# Limits that keep rates finite and fast to compute.
_LARGEST = 1e9
_MOST_STAGES = 10_000
_NAMES = ('tgtfactor', 'noisestdev', 'numsteps')


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Decay of a rate from its base to base / factor.

  Attributes:
    form: 'default' (constant), 'linear', 'exp' (geometric), 'dexp' (equal,
      geometric stages) or 'jdexp' (inner stages are entered in two jumps).
    factor: base rate divided by final rate.
    noise: standard deviation of the noise, see `rate`.
    stages: number of stages of dexp and jdexp.
  """

  form: str = 'default'
  factor: float = 1.0
  noise: float = 0.0
  stages: int = 1

  def rate(self, base: float, progress: float, normal: float = 0.0) -> float:
    """Returns the rate at a progress.

    Args:
      base: base rate from the parameter file.
      progress: 0..1, updates made divided by those of the whole run.
      normal: a standard normal number, for the noise.
    """
    rate = base * _FORMS[self.form](self, progress)
    return rate * (1 + abs(normal) * self.noise) if self.noise else rate

  def stage(self, progress: float) -> int:
    """Returns the stage at a progress; a stage includes its end."""
    last = self.stages - 1
    return next(
        i for i in range(self.stages)
        if i == last or progress <= (i + 1) / self.stages
    )

  def fraction_of(self, stage: int) -> float:
    """Returns the rate in a stage, divided by the base."""
    last = self.stages - 1
    return 1 / self.factor if stage == last else self.factor**(-stage / last)


def _dexp(schedule, progress):
  return schedule.fraction_of(schedule.stage(progress))


def _jdexp(schedule, progress):
  stage = schedule.stage(progress)
  fraction = schedule.fraction_of(stage)
  middle = (stage + 0.5) / schedule.stages
  if stage and 0.2 < progress < 0.9 and progress > middle:
    return (fraction * schedule.fraction_of(stage - 1)) ** 0.5
  return fraction


# Rate at a progress, divided by the base.
_FORMS = {
    'default': lambda schedule, progress: 1.0,
    'linear': lambda schedule, progress: (
        1 - progress + progress / schedule.factor
    ),
    'exp': lambda schedule, progress: schedule.factor**-progress,
    'dexp': _dexp,
    'jdexp': _jdexp,
}


@dataclasses.dataclass(frozen=True)
class Bounds:
  """Bounds of a matrix's weights, applied after each update.

  Bounds are for the weights that one output reads, divided by their number.

  Attributes:
    low, high: bounds of the root of the sum of squared differences from their
      mean (wcNormMin, wcNormMax); no bounds if high is 0.
    norm: bound of the root of the sum of their squares (wball); 0 for no bound.
  """

  low: float = 0.0
  high: float = 0.0
  norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Rule:
  """Training rule of a parameter.

  Attributes:
    rate: base rate.
    schedule: schedule of the rate.
    decay: weight decay.
    bounds: bounds of the weights, or None.
  """

  rate: float
  schedule: Schedule = Schedule()
  decay: float = 0.0
  bounds: Bounds | None = None

  def rate_at(self, progress: float, normal: float = 0.0) -> float:
    """See `Schedule.rate`."""
    return self.schedule.rate(self.rate, progress, normal)


def parse_schedule(text: str) -> Schedule:
  """Parses a schedule as written in parameter files.

  Args:
    text: for example 'default', 'exp[4000]', 'dexp[1000,4]', 'dexp[250,0,4]' or
      'dexp[tgtFactor=250,noiseStdev=0,numSteps=4]'.

  Raises:
    ValueError: the form is unknown, or its arguments are invalid.
  """
  match = re.fullmatch(r'\s*(\w+)\s*(?:\[([^\[\]]*)\])?\s*', text)
  form = match and match[1].lower()
  if form not in _FORMS:
    raise ValueError(f'expected one of {", ".join(_FORMS)}')
  if form == 'default' and match[2] is None:
    return Schedule()
  values = [] if match[2] is None else match[2].split(',')
  staged = form in _STAGED
  names = _NAMES if staged else _NAMES[:2]
  if len(values) < len(names):
    names = tuple(name for name in names if name != 'noisestdev')
  if form == 'default' or len(values) != len(names):
    wanted = ('factor', 'noise', 'stages')[: 2 + staged]
    raise ValueError(
        f'expected {form}[{",".join(wanted)}], or without the noise'
    )
  numbers = dict.fromkeys(_NAMES, 0.0)
  for name, value in zip(names, values):
    given, _, number = value.rpartition('=')
    if given and given.strip().lower() != name:
      raise ValueError(f"expected {name} where it has '{given.strip()}'")
    numbers[name] = _finite(number)
  stages = numbers['numsteps'] if staged else 1.0
  if not stages.is_integer():
    raise ValueError(f'expected a whole number of stages, not {stages}')
  factor, noise = numbers['tgtfactor'], numbers['noisestdev']
  if not (
      1 / _LARGEST <= factor <= _LARGEST
      and 0 <= noise <= _LARGEST
      and 1 <= stages <= _MOST_STAGES
  ):
    raise ValueError(
        'expected a factor above 0, noise >= 0 and stages >= 1, at most '
        f'{_LARGEST:g}, {_LARGEST:g} and {_MOST_STAGES:,}'
    )
  return Schedule(
      form, numbers['tgtfactor'], numbers['noisestdev'], int(stages)
  )


def _finite(text):
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(f"expected a finite number where it has '{text.strip()}'")
  return value
