"""The properties of the training images that a network depends on.

With this file in it a workdir is complete: the network can be used where the
data is not.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet.config.errors import CheckpointError
from input_pipeline import preprocessing
from input_pipeline.errors import DataError, printable
from input_pipeline.files import atomic, untrusted
from input_pipeline.images import decoding, levels
from input_pipeline.sources import Source

if TYPE_CHECKING:  # With it comes TensorFlow, seconds that others can save.
  from input_pipeline.pipeline import Pipeline

FILE = 'inputs.npz'
# Bytes of its arrays; ten thousand class names take one megabyte.
_LARGEST = 2**27
# Classes that are named where two sets of them are not the same.
_DIFFERENCES = 5


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The properties of the training images that using a network requires.

  Attributes:
    class_names: the classes' names, in the order of their labels.
    mean_image: [size, size, 3] float32, which is subtracted.
    aspect: how images become squares, see `preprocessing.ASPECTS`.
    deviations: [3] float64, along the principal components of the colours that
      lighting adds, levels of 0..255.
    eigenvectors: [3, 3] float64, a component a column.
    background: of transparent pixels, see `decoding.decode`; () in older runs.
  """

  class_names: tuple[str, ...]
  mean_image: np.ndarray
  aspect: str
  deviations: np.ndarray
  eigenvectors: np.ndarray
  background: decoding.Background = decoding.WHITE


def output_names(
    class_names: Sequence[str], outputs: int
) -> tuple[str, ...]:
  """Names of a network's outputs; there may be more outputs than classes.

  Args:
    class_names: of its data, in the order of their labels.
    outputs: number of them, `model.num_classes`.
  """
  names = tuple(class_names)
  return names + tuple(f'output {i}' for i in range(len(names), outputs))


def check_classes(source: Source, class_names: Sequence[str]) -> None:
  """Checks that the labels of images are those of a network.

  Args:
    source: of the images.
    class_names: of the data that the network was trained on.

  Raises:
    DataError: the names differ, so that labels would mean other classes.
  """
  found, wanted = tuple(source.class_names), tuple(class_names)
  if found == wanted:
    return
  pairs = itertools.zip_longest(found, wanted)
  differ = [
      f'{_quoted(one)}, not {_quoted(other)}, as number {label}'
      for label, (one, other) in enumerate(pairs) if one != other
  ]
  raise DataError(
      f'{source.name} has other classes than the network was trained on: '
      + ', '.join(differ[:_DIFFERENCES])
      + (f' and {len(differ) - _DIFFERENCES} more'
         if len(differ) > _DIFFERENCES else '')
      + f' (of {len(found)} and {len(wanted)}): say by '
      "--train_dir, --eval_dir or --data_dir where the run's own images are"
  )


def _quoted(name):
  return 'none' if name is None else f"'{printable(name)}'"


def of_pipeline(pipeline: 'Pipeline') -> Inputs:
  """Inputs of a run with open data."""
  return Inputs(
      tuple(pipeline.train.class_names),
      np.asarray(pipeline.mean_image, np.float32),
      pipeline.train.aspect,
      *(np.asarray(array, np.float64) for array in pipeline.components),
      pipeline.train.background,
  )


def save(workdir: pathlib.Path, inputs: Inputs) -> None:
  """Writes inputs.npz into a workdir, without pickle."""
  arrays = {
      **vars(inputs),
      'class_names': np.array(inputs.class_names, str),
      'background': np.array(inputs.background, np.uint8),
  }
  # Names may be anything that a folder can be called, bytes that are not text
  # included; NumPy's text is that.
  write = functools.partial(np.savez, **arrays)
  atomic.write(workdir / FILE, write, workdir)


def load(workdir: pathlib.Path) -> Inputs | None:
  """Reads inputs.npz; None if it does not exist, as in older runs.

  Raises:
    CheckpointError: the file is damaged.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  try:
    arrays = untrusted.load_arrays(path, _LARGEST)
    wanted = lambda name, *about: untrusted.check_array(
        name, arrays[name], *about
    )
    side = arrays['mean_image'].shape[0]
    if arrays['aspect'].item() not in preprocessing.ASPECTS:
      raise untrusted.UnreadableError(f'aspect is {arrays["aspect"]!r}')
    background = ()
    if 'background' in arrays:
      background = tuple(wanted('background', 'u', (None,)).tolist())
    if not levels.is_background(background):
      raise untrusted.UnreadableError(f'background is {background[:9]}')
    return Inputs(
        tuple(wanted('class_names', 'U', (None,)).tolist()),
        wanted('mean_image', 'f', (side, side, 3)),
        arrays['aspect'].item(),
        wanted('deviations', 'f', (3,)),
        wanted('eigenvectors', 'f', (3, 3)),
        background,
    )
  except Exception as error:  # zipfile and NumPy raise many kinds.
    raise CheckpointError(
        f'cannot read {path} ({error}): copy it again, or remove it where the '
        'training data is and continue the run, which writes it again'
    ) from error
