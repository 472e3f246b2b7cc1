"""Traces training steps for TensorBoard or Perfetto."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from alexnet.config.errors import ConfigError
from alexnet.metrics.console import Console

# TensorBoard looks for traces beside a run's event files.
FOLDER = 'tensorboard'
NAME = 'train'


def parse(text: str | None) -> range:
  """Parses 'A:B' to the range of steps from A to B.

  Raises:
    ConfigError: the text is not a non-empty range.
  """
  if text is None:
    return range(0)
  found = re.fullmatch('([0-9]{1,12}):([0-9]{1,12})', text)
  steps = range(*map(int, found.groups())) if found else range(0)
  if not steps:
    raise ConfigError(
        f"--profile_steps is '{text}': expected two steps, the first one "
        'before the second, such as 100:105'
    )
  return steps


class Profiler:
  """Writes one trace of the requested steps of a run."""

  def __init__(self, steps: range, workdir: pathlib.Path, console: Console):
    """Creates a profiler for steps, counted from 0; an empty range is none."""
    self._steps = steps
    self._folder = workdir / FOLDER
    self._console = console
    self._tracing = False

  def check(self, step: int, total_steps: int) -> None:
    """Compares the requested steps with the run's remaining ones.

    Raises:
      ConfigError: the run ends before them.
    """
    steps = self._steps
    if steps and steps.stop > total_steps:
      raise ConfigError(
          f'--profile_steps is {steps.start}:{steps.stop}, but the run has '
          f'{total_steps} steps: expected steps of the run'
      )
    if steps and steps.stop <= step:
      self._console.print(
          f'warning: --profile_steps is {steps.start}:{steps.stop}, and the '
          f'run is at step {step} already: nothing is traced'
      )

  def make(
      self, step: int, train_step: Callable[..., Any], *arguments: Any
  ) -> Any:
    """Calls `train_step`, and traces the call if the step was requested.

    Args:
      step: number of the step, counted from 0.
      train_step: function that makes the step.
      *arguments: arguments of train_step.

    Returns:
      The result of train_step.
    """
    if step not in self._steps:
      return train_step(*arguments)
    if not self._tracing:
      jax.block_until_ready(arguments)  # Excludes the previous step.
      options = jax.profiler.ProfileOptions()
      # Python's function calls would crowd out those of the device.
      options.python_tracer_level = 0
      # The default, a time in seconds, may not be unique.
      options.session_id = f'steps_{step}_to_{self._steps.stop}'
      jax.profiler.start_trace(self._folder, profiler_options=options)
      self._tracing = True
    with jax.profiler.StepTraceAnnotation(NAME, step_num=step):
      result = train_step(*arguments)
    if step == self._steps[-1]:
      jax.block_until_ready(result)
      self.stop()
    return result

  def stop(self) -> None:
    """Writes the trace, even if the run ends early."""
    if not self._tracing:
      return
    self._tracing, self._steps = False, range(0)
    try:
      jax.profiler.stop_trace()
    except Exception as error:  # A full disk should not end a run.
      self._console.print(f'warning: the trace cannot be written ({error})')
    else:
      self._console.print(
          f'the trace is in {self._folder / "plugins" / "profile"}'
      )
