"""Pictures of kernels and principal colours."""

import functools
import operator
import pathlib
from collections.abc import Sequence

import numpy as np

from alexnet.analysis.report.page import Block, Figures, Missing
from alexnet.analysis.tables import Table
from alexnet.checkpointing.input_spec import Inputs
from alexnet.visualization import charts, filters, images
from alexnet.visualization.charts import Picture

# Standard deviations on each side of a strip of colours; size of a strip and of
# the gap between two strips, in pixels.
_REACH = 3
_STRIP, _GAP = (44, 720), 8


def load_kernels(workdir: pathlib.Path) -> np.ndarray | None:
  """Reads the first layer's kernels from a run's newest checkpoint.

  Returns:
    [size, size, 3, kernels] float32; None without a checkpoint or such a layer.

  Raises:
    CheckpointError: all checkpoints are damaged.
  """
  import jax  # Takes seconds, and only pages with kernels need it.

  from alexnet.checkpointing import manager

  if manager.newest_step(workdir) is None:
    return None
  store = manager.Checkpoints(workdir, read_only=True)
  step = store.find()
  params = store.variable_shapes(step)['params']
  names = filters.first_layer(params)
  if names is None:
    return None
  leaf = functools.reduce(operator.getitem, names, params)
  target = jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
  )
  for name in reversed(names):
    target = {name: target}
  variables = store.restore_variables(step, {'params': target})
  store.close()
  return filters.first_kernels(variables['params'])


def kernels(
    named: Sequence[tuple[str, np.ndarray | None, int]],
) -> list[Block]:
  """Shows the first layer's kernels of several runs, as in Figure 3.

  Args:
    named: (name of the run, [size, size, 3, kernels] or None, towers).
  """
  drawn, rows, with_towers = [], [], set()
  for number, (name, weights, towers) in enumerate(named, 1):
    if weights is None:
      rows.append((name, '--', '--', '--', 'no checkpoint with such a layer'))
      continue
    with_towers.add(towers > 1)
    size, count = weights.shape[0], weights.shape[-1]
    of = f'{count // towers} in each tower' if towers > 1 else 'one tower'
    drawn.append(_picture(
        'filters' if len(named) == 1 else f'filters_{number}',
        f'{name}: {count} kernels of {size} x {size} pixels, {of}',
        'The kernels of the first layer as small images'
        + (', tower below tower' if towers > 1 else ''),
        filters.picture(weights, towers, scale=5),
    ))
    for tower, one in enumerate(filters.colourfulness(weights, towers), 1):
      rows.append((
          name, str(tower), f'{one.share:.2f}', f'{np.median(one.kernels):.2f}',
          f'{np.mean(one.kernels > 1 / 2):.0%} of {len(one.kernels)}',
      ))
  if not drawn:
    return [Missing('There is no checkpoint yet with kernels to show.')]
  above = ''
  if True in with_towers:
    half = 'half' if len(with_towers) == 1 else 'half of two towers'
    above = f' The upper {half} is the first tower.'
  headings = (
      'run', 'which tower', 'colourfulness', 'median of its kernels',
      'kernels above 1/2',
  )
  return [
      'Each kernel is scaled by its own largest weight; zero is mid-grey.'
      + above,
      Figures(tuple(drawn)),
      'Colourfulness is the share of chroma in the sum of squares of the '
      'weights. Chroma is the difference of the three weights of a pixel from '
      'their mean. Colourfulness is 0 for a grey kernel, 1 for a kernel that '
      'does not respond to grey images, and 2/3 for random weights.',
      Table(headings, tuple(rows)),
  ]


def colours(inputs: Inputs | None, of_imagenet: bool) -> list[Block]:
  """Shows the principal components of the colours around the mean colour.

  Args:
    inputs: inputs of the run.
    of_imagenet: whether the components are ImageNet's, which are built in.
  """
  if inputs is None:
    return [Missing(
        'The run has neither inputs.npz nor a checkpoint yet.'
    )]
  mean = inputs.mean_image.mean(axis=(0, 1), dtype=np.float64)
  total = max(np.sum(inputs.deviations**2), np.finfo(float).tiny)
  rows, strips = [], []
  for number, i in enumerate(np.argsort(-inputs.deviations), 1):
    deviation, vector = inputs.deviations[i], inputs.eigenvectors[:, i]
    vector = vector * (1 if vector.sum() >= 0 else -1)  # From dark to light.
    strips.append(_strip(mean, deviation * vector))
    rows.append((
        str(number), f'{deviation:.2f}', f'{deviation**2 / total:.1%}',
        ', '.join(f'{x:+.3f}' for x in vector),
    ))
  whose = 'ImageNet, which are built in' if of_imagenet else (
      'the training set'
  )
  headings = (
      'component', 'standard deviation, levels of 255', 'share of the variance',
      'direction (red, green, blue)' if len(mean) == 3 else 'direction (grey)',
  )
  return [
      'PCA lighting shifts the colours of training images along the principal '
      f'components of the RGB values of all pixels of {whose}. Each strip goes '
      f'from {_REACH} standard deviations below the mean colour '
      f'({", ".join(f"{x:.1f}" for x in mean)}) to {_REACH} above it; values '
      'are clipped to 0..255.',
      Figures((
          _picture(
              'colours',
              'Components 1, 2 and 3, from top to bottom'
              if len(mean) == 3 else 'The only component',
              'Three strips of colours, along each principal component',
              np.concatenate(strips)[_GAP:],
          ),
          _picture(
              'mean_image', 'The mean image, which is subtracted',
              'The mean of all training images',
              np.clip(inputs.mean_image.round(), 0, 255).astype(np.uint8),
              room='small',
          ),
      )),
      Table(headings, tuple(rows)),
  ]


def _strip(mean, direction):
  """[height, width, 4] uint8 strip, with a transparent gap above."""
  height, width = _STRIP
  steps = np.linspace(-_REACH, _REACH, width)
  colours = np.clip(mean + steps[:, None] * direction, 0, 255)
  strip = np.zeros((height + _GAP, width, 4), np.uint8)
  strip[_GAP:, :, :3], strip[_GAP:, :, 3] = colours.round(), 255
  return strip


def _picture(name, title, alt, pixels, room='wide') -> Picture:
  """Creates one picture for both themes."""
  file = images.encode(pixels)
  url = charts.data_url('image/png', file)
  return Picture(name, title, alt, file, url, url, room=room)
