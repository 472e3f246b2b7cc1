"""The properties of the training images that a network depends on.

They are saved in the workdir, so that a network can be used without its
training data.
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
from input_pipeline.images import allowed, decoding
from input_pipeline.sources import Source

if TYPE_CHECKING:  # The pipeline imports TensorFlow, which takes seconds.
  from input_pipeline.pipeline import Pipeline

FILE = 'inputs.npz'
# Largest size of the file's arrays, in bytes; ten thousand class names take one
# megabyte.
_LARGEST = 2**27
# Most differing classes that an error message names.
_DIFFERENCES = 5


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The properties of the training images that using a network requires.

  Attributes:
    class_names: names of the classes, in the order of their labels.
    mean_image: [size, size, channels] float32, subtracted from images.
    aspect: method that makes images square; one of `preprocessing.ASPECTS`.
    deviations: [channels] float64 standard deviations along the principal
      components of the colours, in levels of 0..255; for lighting.
    eigenvectors: [channels, channels] float64, one principal component per
      column.
    background: colour behind transparent pixels, see `decoding.decode`; () in
      older runs.
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
  """Returns the names of a network's outputs.

  Outputs without a class are named 'output' and their index.

  Args:
    class_names: names of the classes of its data, in the order of their labels.
    outputs: number of outputs, `model.num_classes`.
  """
  names = tuple(class_names)
  return names + tuple(f'output {i}' for i in range(len(names), outputs))


def check_classes(source: Source, class_names: Sequence[str]) -> None:
  """Checks that a source has the classes that a network was trained on.

  Args:
    source: source of the images.
    class_names: names of the classes that the network was trained on.

  Raises:
    DataError: the names or their order differ.
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
      + f' (of {len(found)} and {len(wanted)}): set --train_dir, --eval_dir '
      "or --data_dir to the folder of the run's own images"
  )


def _quoted(name):
  return 'none' if name is None else f"'{printable(name)}'"


def of_pipeline(pipeline: 'Pipeline') -> Inputs:
  """Returns the inputs of a run whose pipeline is open."""
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
  # NumPy's str also stores folder names that are not valid UTF-8.
  write = functools.partial(np.savez, **arrays)
  atomic.write(workdir / FILE, write, workdir)


def load(workdir: pathlib.Path) -> Inputs | None:
  """Reads inputs.npz of a workdir; None if it does not exist, as in older runs.

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
    side, _, channels = arrays['mean_image'].shape
    if channels not in (1, 3):
      raise untrusted.UnreadableError(f'mean_image has {channels} channels')
    if arrays['aspect'].item() not in preprocessing.ASPECTS:
      raise untrusted.UnreadableError(f'aspect is {arrays["aspect"]!r}')
    background = ()
    if 'background' in arrays:
      background = tuple(wanted('background', 'u', (None,)).tolist())
    if not allowed.is_background(background):
      raise untrusted.UnreadableError(f'background is {background[:9]}')
    return Inputs(
        tuple(wanted('class_names', 'U', (None,)).tolist()),
        wanted('mean_image', 'f', (side, side, channels)),
        arrays['aspect'].item(),
        wanted('deviations', 'f', (channels,)),
        wanted('eigenvectors', 'f', (channels, channels)),
        background,
    )
  except Exception as error:  # zipfile and NumPy raise many kinds.
    raise CheckpointError(
        f'cannot read {path} ({error}): copy it again, or remove it where the '
        'training data is and continue the run, which writes it again'
    ) from error
