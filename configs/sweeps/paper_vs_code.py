"""Run #145 with one setting at a time changed to the paper's.

  python -m alexnet.sweep --config=configs/sweeps/paper_vs_code.py --seeds=3 \
      --workdir=runs/paper_vs_code

Add the dataset after a colon, as for other configs: paper_vs_code.py:folder

docs/paper_vs_code.md lists the differences, their evidence and their effects.
All runs keep the base's schedule, although the schedules differ too.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012

_VARIANTS = {
    'conv1: zeros at both borders': {'model.conv1.padding': (1, 2)},
    'conv1: ReLU, then normalization': {
        'model.conv1.after': ('activation', 'lrn', 'pool')
    },
    'no normalization over pixels': {'model.spatial_norm.enabled': False},
    'alpha not divided by n': {'model.lrn.divide_alpha_by_n': False},
    'initial deviation 0.01 everywhere': {
        'model.conv3.stddev': 0.01,
        'model.conv4.stddev': 0.01,
        'model.conv5.stddev': 0.01,
    },
    'biases learn at the rate of weights': {
        'optimizer.bias_rate_multiplier': 1.0
    },
    'biases decay': {'optimizer.bias_decay_multiplier': 1.0},
    "the paper's eigenvalues": {
        'augmentation.lighting': 'eigenvalue',
        'augmentation.lighting_divisor': 1.0,
    },
    '32 x 32 offsets of crops': {'augmentation.crop_offsets': 32},
    'each image its own crop': {'augmentation.images_per_crop': 1},
    'mean under the crop': {'augmentation.mean_crop': 'under'},
}


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the base of all runs."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields names of variants and their overrides."""
  yield 'run #145', {}
  yield from _VARIANTS.items()
  together = {}
  for overrides in _VARIANTS.values():
    together |= overrides
  yield 'all of these', together
