"""Two towers, one with half the kernels, and two without communication.

  python -m alexnet.sweep --config=configs/sweeps/two_towers.py --seeds=3 \
      --workdir=runs/two_towers

Add the dataset after a colon, as for other configs: two_towers.py:folder

Runs #145, #145-half and #150. The half network keeps its last convolution and
its fully connected layers whole, "because most of the net's parameters are in
the first fully-connected layer" (§3.2, footnote). It has 59,798,312 parameters;
the network without communication has 60,714,408.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the base of all runs."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[Any, ...]]:
  """Yields names of variants, overrides, and the paper's differences."""
  yield 'two towers (run #145)', {}
  yield 'one tower, half the kernels (run #145-half)', {
      'model.towers': 1,
      'mesh.tower': 1,
      'model.conv1.features': 48,
      'model.conv2.features': 128,
      'model.conv3.features': 192,
      'model.conv4.features': 192,
  }, (1.7, 1.2)
  # The log's errors are 41.828 and 19.330 %, #145's 40.664 and 18.210 %.
  yield 'towers that meet in the logits only (run #150)', {
      'model.conv2.features': 320,
      'model.conv3.reads': 'own',
      'model.fc6.features': 8192,
      'model.fc6.reads': 'own',
      'model.fc7.reads': 'own',
  }, (1.164, 1.12)
