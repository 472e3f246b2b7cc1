"""What a run tells a person: at its start, on its way and at its end."""

import pathlib
from typing import Any

import ml_collections
from jax.sharding import Mesh

from alexnet import environment, evaluation, metrics
from alexnet.timetable import Timetable
from input_pipeline.sources import Source


def announce(
    console: metrics.Console,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    mesh: Mesh,
    parameters: int,
    timetable: Timetable,
    train: Source,
    evaluation: Source,
) -> None:
  """Says what a run is going to do.

  Args:
    console: where.
    config: the whole config.
    workdir: of the run.
    mesh: that it runs on.
    parameters: number of the network's.
    timetable: of the run.
    train: the training set.
    evaluation: the evaluation set.
  """
  devices = mesh.devices.flatten()
  every = timetable.evaluate_every
  steps = timetable.total_steps
  lines = {
      'model': (
          f'{config.model.name}, {parameters:,} parameters, '
          f'{config.model.towers} tower(s), {config.model.dtype}'
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
  if warning := environment.idle_accelerator_warning():
    console.print(f'warning: {warning}')


def progress_line(
    values: dict[str, float | None],
    step: int,
    total_steps: int,
    seconds_left: float | None,
) -> str:
  """The line of a record 'train' of metrics.jsonl."""
  rate = values['images_per_second']
  return (
      f'step {step}/{total_steps} {step / total_steps:4.0%}  '
      f'epoch {values["epoch"]:.2f}  loss {values["loss"]:.4f}  '
      f'top-1 {values["top1"]:6.2%}  lr {values["learning_rate"]:.3g}  '
      f'{f"{rate:.1f}" if rate else "--"} img/s  '
      f'ETA {metrics.format_duration(seconds_left)}'
  )


def show_results(
    console: metrics.Console, workdir: pathlib.Path, results: dict[str, Any]
) -> None:
  """Says what results.json says."""
  console.print(
      f'finished {results["step"]:,} steps in '
      f'{metrics.format_duration(results["train_seconds"])} of training'
  )
  for views in evaluation.VIEWS:
    if views in results:
      console.print(evaluation.format_result(views, results[views]))
  console.print(
      f'metrics.jsonl, tensorboard, checkpoints and results.json are in '
      f'{workdir}'
  )
