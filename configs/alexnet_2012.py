"""AlexNet as its authors ran it: run #145 of their released code.

The network of the paper's Table 2, "1 CNN". This config sets only what the
authors' files do differently from the paper, on top of configs/alexnet.py.

  python main.py --config=configs/alexnet_2012.py:imagenet2012 \
      --workdir=runs/alexnet_2012

The authors' later schedule is configs/alexnet_2012_geometric.py.

Expected with imagenet2012: 40.66 % top-1 and 18.21 % top-5 error on the
validation set with ten views (the run's log), after 91 epochs.
"""

import ml_collections

from configs import alexnet


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns run #145's recipe for a dataset, as in configs/alexnet.py."""
  config = alexnet.get_config(data)
  model = config.model

  # 55 = 1 + ceil((224 - 11) / 4): the last window is padded with zeros, at the
  # bottom and right only.
  model.conv1.padding = (0, 3)
  # Normalization sees conv1's negative values.
  model.conv1.after = ('lrn', 'pool', 'activation')
  # The definition file pools first, which is equivalent with max pooling.
  model.conv5.after = ('pool', 'activation')
  model.spatial_norm.enabled = True
  model.lrn.divide_alpha_by_n = True
  for name in ('conv3', 'conv4', 'conv5'):
    model[name].stddev = 0.03

  # Biases learn twice as fast and do not decay.
  config.optimizer.bias_rate_multiplier = 2.0
  config.optimizer.bias_decay_multiplier = 0.0

  augmentation = config.augmentation
  # Offsets 0 to 32; 32 consecutive images share an offset and a flip.
  augmentation.crop_offsets = 33
  augmentation.images_per_crop = 32
  augmentation.mean_crop = 'centre'
  augmentation.lighting = 'standard_deviation'
  augmentation.lighting_divisor = 1.1

  if data == 'digits':
    alexnet.adapt_to_digits(config)
    return config

  # The manual schedule in the log. Biases keep their rate, except conv1's.
  config.duration = '91 epochs'
  augmentation.lighting_until_epoch = 67.0
  config.schedule.name = 'steps'
  config.schedule.steps = (
      (25.0, 'all', 'kernel', 1e-3),
      (51.0, 'all', 'kernel', 1e-4),
      (67.0, 'conv1', 'kernel', 1e-5),
      (72.0, 'conv1', 'both', 0.0),
      (79.0, 'all', 'kernel', 1e-5),
      (79.0, 'conv1', 'kernel', 0.0),
  )
  return config
