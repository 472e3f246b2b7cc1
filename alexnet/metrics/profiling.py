"""Traces training steps for TensorBoard or Perfetto."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from alexnet.config.errors import ConfigError
from alexnet.metrics.console import Console

# TensorBoard looks for traces beside the numbers of the run.
FOLDER = 'tensorboard'
NAME = 'train'


def parse(text: str | None) -> range:
  """Parses a range of steps: 'A:B' is from step A to step B.

  Raises:
    ConfigError: it names none.
  """
  if text is None:
    return range(0)
  found = re.fullmatch('([0-9]{1,12}):([0-9]{1,12})', text)
  steps = range(*map(int, found.groups())) if found else range(0)
  if not steps:
    raise ConfigError(
        f"--profile_steps is '{text}': wanted two steps, the first one before "
        'the second, such as 100:105'
    )
  return steps


class Profiler:
  """Writes one trace of a run, of the requested steps that it makes."""

  def __init__(self, steps: range, workdir: pathlib.Path, console: Console):
    """Creates a profiler of steps, counted from 0; empty: none."""
    self._steps = steps
    self._folder = workdir / FOLDER
    self._console = console
    self._tracing = False

  def check(self, step: int, total_steps: int) -> None:
    """Compares the requested steps with those that a run has left.

    Raises:
      ConfigError: the run ends before them.
    """
    steps = self._steps
    if steps and steps.stop > total_steps:
      raise ConfigError(
          f'--profile_steps is {steps.start}:{steps.stop}, but the run has '
          f'{total_steps} steps: wanted steps of the run'
      )
    if steps and steps.stop <= step:
      self._console.print(
          f'warning: --profile_steps is {steps.start}:{steps.stop}, and the '
          f'run is at step {step} already: nothing is traced'
      )

  def make(
      self, step: int, train_step: Callable[..., Any], *arguments: Any
  ) -> Any:
    """Makes a step, and traces it if it was requested.

    Args:
      step: number of the step, counted from 0.
      train_step: makes it.
      *arguments: of train_step.

    Returns:
      What train_step returns.
    """
    if step not in self._steps:
      return train_step(*arguments)
    if not self._tracing:
      jax.block_until_ready(arguments)  # The step before is not asked for.
      options = jax.profiler.ProfileOptions()
      # The calls of Python's functions would crowd out those of the device.
      options.python_tracer_level = 0
      # By itself the time in seconds, which another trace may have as well.
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
    """Writes what has been traced, also if the run ends early."""
    if not self._tracing:
      return
    self._tracing, self._steps = False, range(0)
    try:
      jax.profiler.stop_trace()
    except Exception as error:  # A full disk is no reason to end a run.
      self._console.print(f'warning: the trace cannot be written ({error})')
    else:
      self._console.print(
          f'the trace is in {self._folder / "plugins" / "profile"}'
      )
