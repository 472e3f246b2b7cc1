"""Prints messages at the start of a run, during training and at its end."""

import pathlib
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

import ml_collections
import tqdm

from alexnet.config.intervals import Timetable
from input_pipeline.files import streams

if TYPE_CHECKING:  # Importing JAX and Pillow takes a second.
  from jax.sharding import Mesh

  from input_pipeline.sources import Source

# Dense views are in inference/fully_convolutional.py.
VIEWS = ('centre', 'ten')
TEN = 10


class Console:
  """Prints lines; a progress line replaces the previous one on a terminal."""

  def __init__(self, stream: TextIO | None = None):
    self._stream = stream or sys.stdout
    self._in_place = self._stream.isatty()
    self._open_line = False

  def print(self, text: str = '') -> None:
    """Prints a permanent line, above a progress bar if there is one."""
    if self._open_line:
      self._stream.write('\n')
      self._open_line = False
    with tqdm.tqdm.external_write_mode(self._stream):
      self._stream.write(text + '\n')
    self._stream.flush()

  def progress(self, text: str) -> None:
    """Prints a line; on a terminal the next one replaces it."""
    if not self._in_place:
      self.print(text)
      return
    # Returns to the start and clears the rest of a longer line. A line that
    # wraps could not be replaced.
    columns = shutil.get_terminal_size().columns
    self._stream.write('\r' + text[: columns - 1] + '\x1b[K')
    self._stream.flush()
    self._open_line = True

  def bar(self, description: str, total: int, unit: str = 'img') -> tqdm.tqdm:
    """Creates a bar that disappears at the end of its `with` statement."""
    if self._open_line:
      self._stream.write('\r\x1b[K')
      self._open_line = False
    return streams.progress(
        None, description, total, unit=unit, leave=False, file=self._stream
    )


class Silence(Console):
  """Prints nothing, for processes other than the first."""

  def print(self, text: str = '') -> None:
    """Does nothing."""

  def progress(self, text: str) -> None:
    """Does nothing."""

  def bar(self, description: str, total: int, unit: str = 'img') -> tqdm.tqdm:
    """Shows nothing."""
    return tqdm.tqdm(disable=True)


def format_duration(seconds: float | None) -> str:
  """Formats seconds as '1h02m' or '3m05s'; '--' for None."""
  if seconds is None:
    return '--'
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{rest:02d}s'


def format_result(views: str, result: dict[str, float]) -> str:
  """Formats a result of `evaluate` in one line, in percent."""
  name = {
      'centre': 'centre crop', 'ten': 'ten views', 'dense': 'dense views'
  }[views]
  note = f'{result["count"]:,} images'
  if views == 'ten' and result['views'] < TEN:
    note += ', without mirror images: training has none'
  if views == 'dense':
    note += f', {result["views"]} places'
  return (
      f'{name:12s} top-1 {result["top1"]:7.2%}   top-5 {result["top5"]:7.2%}   '
      f'loss {result["loss"]:.4f}   ({note})'
  )


def announce(
    console: Console,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    mesh: 'Mesh',
    parameters: int,
    timetable: Timetable,
    train: 'Source',
    evaluation: 'Source',
) -> None:
  """Prints a summary of a run before it starts.

  Args:
    console: console to print to.
    config: the whole config.
    workdir: folder of the run.
    mesh: mesh of the run.
    parameters: number of the network's parameters.
    timetable: durations of the run.
    train: the training set.
    evaluation: the evaluation set.
  """
  from alexnet.runtime.gpu import precision  # Imports JAX.

  devices = mesh.devices.flatten()
  every = timetable.evaluate_every
  steps = timetable.total_steps
  lines = {
      'model': (
          f'{config.model.name}, {parameters:,} parameters, '
          f'{config.model.towers} tower(s), '
          f'{precision.in_force(config.model, devices[0])}'
      ),
      'dataset': (
          f'{config.dataset.name}: {len(train):,} training and '
          f'{len(evaluation):,} evaluation images, '
          f'{len(train.class_names):,} classes; {train.name}'
      ),
      'mesh': (
          ', '.join(f'{name}={size}' for name, size in mesh.shape.items())
          + f' on {len(devices)} {devices[0].device_kind} device(s)'
      ),
      'steps': (
          f'{steps:,} of {config.batch_size} images '
          f'({steps / timetable.steps_per_epoch:.1f} epochs), '
          f'evaluation {f"every {every:,}" if every else "at the end"}'
      ),
      'workdir': str(workdir),
  }
  for name, text in lines.items():
    console.print(f'{name:8s} {text}')
  tell_of_data(
      console, train, evaluation,
      'in a new run, remove them from one of the two, or where a part is held '
      'out set --config.dataset.copies=together',
  )
  if warning := precision.warning(config.model, devices[0]):
    console.print(f'warning: {warning}')


def tell_of_data(
    console: Console,
    train: 'Source',
    evaluation: 'Source',
    advice: str = '',
) -> None:
  """Prints unused files, and images that are in both sets, with advice."""
  from input_pipeline import sources  # Imports Pillow.
  from input_pipeline.files import names

  if isinstance(console, Silence):
    return  # Files need not be compared.
  for source in (train, evaluation):
    if source.ignored:
      console.print(f'left out of {source.name}: {source.ignored}')
  if warning := names.sets_warning(train.class_names):
    console.print(f'warning: {warning}')
  if warning := sources.copies_warning(train, evaluation, advice):
    console.print(f'warning: {warning}')


def progress_line(
    values: dict[str, float | None],
    step: int,
    total_steps: int,
    seconds_left: float | None,
) -> str:
  """Formats the progress line from a 'train' record of metrics.jsonl."""
  rate = values['images_per_second']
  return (
      f'step {step}/{total_steps} {step / total_steps:4.0%}  '
      f'epoch {values["epoch"]:.2f}  loss {values["loss"]:.4f}  '
      f'top-1 {values["top1"]:6.2%}  lr {values["learning_rate"]:.3g}  '
      f'{f"{rate:.1f}" if rate else "--"} img/s  '
      f'ETA {format_duration(seconds_left)}'
  )


def show_results(
    console: Console, workdir: pathlib.Path, results: dict[str, Any]
) -> None:
  """Prints the contents of results.json."""
  console.print(
      f'finished {results["step"]:,} steps in '
      f'{format_duration(results["train_seconds"])} of training'
  )
  for views in VIEWS:
    if views in results:
      console.print(format_result(views, results[views]))
  console.print(
      f'metrics.jsonl, tensorboard, checkpoints and results.json are in '
      f'{workdir}'
  )
