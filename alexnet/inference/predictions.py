"""Predicts the classes of image files, and formats them for a terminal."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from alexnet.inference import fully_convolutional
from alexnet.inference.fully_convolutional import Map
from alexnet.inference.predictor import TrainedNetwork
from input_pipeline.errors import ImageError, printable

_BAR = 24  # Width in characters of a probability of 1.
_EIGHTHS = ' ▏▎▍▌▋▊▉█'


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The prediction for one file.

  Attributes:
    path: path of the file.
    classes: (label, name, probability) of the most probable classes.
    maps: maps of dense views, if requested.
  """

  path: pathlib.Path
  classes: tuple[tuple[int, str, float], ...]
  maps: Sequence[Map] = ()


def predictions(
    network: TrainedNetwork,
    paths: Sequence[pathlib.Path],
    *,
    views: str,
    scales: Sequence[int] | None = None,
    top: int = 5,
) -> Iterator[Prediction | ImageError]:
  """Yields the prediction for each file, or its error.

  Args:
    network: the network.
    paths: paths of the files.
    views: views of each file, see `TrainedNetwork.predict`.
    scales: scales of dense views, see `TrainedNetwork.predict`.
    top: number of classes to name.
  """
  if views == 'dense':
    results = fully_convolutional.stream(network, paths, scales)
  else:
    results = network.stream(paths, views=views)
  for path, result in zip(paths, results):
    if isinstance(result, ImageError):
      yield result
      continue
    maps = result if views == 'dense' else ()
    probabilities = fully_convolutional.mean(result) if maps else result
    order = np.argsort(-probabilities, kind='stable')[:top]
    classes = tuple(
        (int(i), network.class_names[i], float(probabilities[i]))
        for i in order
    )
    yield Prediction(path, classes, maps)


def to_text(prediction: Prediction, encoding: str | None = 'utf-8') -> str:
  """Formats a prediction: the file, then a line with a bar for each class."""
  lines = [printable(str(prediction.path))]
  names = [printable(name) for _, name, _ in prediction.classes]
  width = max(map(len, names))
  for name, (_, _, probability) in zip(names, prediction.classes):
    bar = _bar(probability, encoding)
    lines.append(f'  {name:{width}}  {probability:7.2%}  {bar}'.rstrip())
  return '\n'.join(lines)


def _bar(probability, encoding):
  eighths = round(probability * _BAR * 8)
  bar = '█' * (eighths // 8) + _EIGHTHS[eighths % 8]
  try:
    bar.encode(encoding or 'ascii')
  except UnicodeError:
    return '#' * round(probability * _BAR)
  return bar
