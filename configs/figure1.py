"""Figure 1: a small network with ReLUs learns several times faster than tanh.

  python -m alexnet.sweep --config=configs/figure1.py:folder \
      --set=dataset.train_dir=CIFAR10/train \
      --set=dataset.eval_dir=CIFAR10/test --workdir=runs/figure1
  python -m alexnet.analysis.paper.figure1 --workdir=runs/figure1

For TensorFlow Datasets use --config=configs/figure1.py:cifar10 and
--set=dataset.eval_split=test. As a config of main.py it is a single run.

The paper's caption: a four-layer network with ReLUs reaches a training error of
25 % on CIFAR-10 six times faster than one with tanh, with independently chosen
learning rates and no regularization. The paper does not describe the network.
This one has four layers of weights: 5 x 5 convolutions of 32, 32 and 64
features, each followed by overlapping max pooling, and ten logits. (In the
terms of §3.3 it could also be two convolutions of 64 and two locally connected
layers.)
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet

# Learning rates to try for each activation; the figure uses the best.
_RATES = {'relu': (0.0003, 0.001, 0.003), 'tanh': (0.001, 0.003, 0.01)}


def get_config(data: str = 'cifar10') -> ml_collections.ConfigDict:
  """Returns the recipe for a dataset, as in configs/alexnet.py."""
  config = alexnet.get_config(data)
  # The caption is about training error: a run ends when it is reached.
  config.until_train_error = 0.25
  config.duration = '50 epochs'
  config.log_every = '0.25 epochs'
  config.evaluate_every = 'never'
  config.checkpoint_every = 'never'
  config.ten_views = False

  model = config.model
  model.towers = 1
  # Deviations are small: images are 0..255 minus the mean, and with ten times
  # these the first hundred updates kill most ReLUs at every useful rate.
  layers = {
      'conv1': (32, 'image', 0.0001),
      'conv2': (32, 'own', 0.01),
      'conv3': (64, 'own', 0.01),
  }
  for name, (features, reads, stddev) in layers.items():
    model[name].update(
        features=features, size=5, stride=1, padding=(2, 2), reads=reads,
        stddev=stddev, bias=0.0, after=('pool', 'activation'),
    )
  for name in ('conv4', 'conv5', 'conv6', 'fc6', 'fc7'):
    model[name].features = 0
  model.fc8.stddev = 0.1

  # "No regularization of any kind was employed."
  config.optimizer.weight_decay = 0.0
  config.schedule.name = 'constant'
  config.schedule.learning_rate = 0.001
  config.dataset.size = 32
  config.dataset.pca = 'imagenet'  # Unused; this avoids computing it.
  config.augmentation.crop_size = 32
  config.augmentation.crop_offsets = 1
  config.augmentation.flip = False
  config.augmentation.lighting = 'none'
  return config


def sweep() -> Iterator[dict[str, Any]]:
  """Yields activations and learning rates."""
  for activation, rates in _RATES.items():
    for rate in rates:
      yield {
          'model.activation': activation,
          'schedule.learning_rate': rate,
      }
