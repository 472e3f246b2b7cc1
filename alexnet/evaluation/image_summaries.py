"""Pictures of kernels and predictions, written at evaluations of a run."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from alexnet.metrics.writer import Writer
from alexnet.models.parameters import by_path
from alexnet.visualization import filters, images
from input_pipeline.files import atomic

FOLDER = 'images'
# Number of images whose predictions are drawn.
IMAGES = 8


def write(
    workdir: pathlib.Path,
    writer: Writer,
    step: int,
    *,
    params: Any,
    towers: int,
    squares: np.ndarray,
    log_probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> None:
  """Writes the kernels of the first layer, predictions and histograms.

  The pictures are workdir/images/filters_STEP.png and predictions_STEP.png,
  and in TensorBoard; the histograms, of all parameters, in TensorBoard alone.

  Args:
    workdir: folder of the run.
    writer: writer of the run.
    step: number of updates made.
    params: nested dictionaries of arrays.
    towers: number of towers of the network.
    squares: [images, size, size, 3] uint8, the images.
    log_probabilities: [images, classes] float32, predictions for the images.
    labels: [images] labels of the images.
    class_names: names of the outputs, in order.
  """
  # One parameter at a time, since all take hundreds of megabytes.
  for path, array in by_path(params).items():
    writer.histogram(path, step, jax.device_get(array))
  files = {
      'predictions': images.predictions(
          squares, np.exp(log_probabilities), labels.tolist(), class_names
      )
  }
  kernels = filters.first_kernels(params)
  if kernels is not None:
    files['filters'] = images.encode(filters.picture(kernels, towers))
    for number, tower in enumerate(filters.colourfulness(kernels, towers), 1):
      writer.scalar(f'colourfulness/tower_{number}', step, tower.share)
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  for name, file in files.items():
    path = folder / f'{name}_{step:08d}.png'
    atomic.write(path, lambda target, file=file: target.write(file), folder)
    writer.image(name, step, images.decode(file))
