"""Run #170: the network of #145 with an automatic learning rate schedule.

The authors' later recipe: four equal stages of 0.01, 1.59e-3, 2.5e-4 and 4e-5
for weights (`dexp[250,0,4]`), and one drop by ten half way for biases
(`dexp[10,0,2]`). Lighting was still switched off and conv1 frozen by hand.

  python main.py --config=configs/alexnet_2012_geometric.py:imagenet2012 \
      --workdir=runs/alexnet_170

Expected with imagenet2012: 42.34 % top-1 and 19.58 % top-5 error on the
validation set with the centre crop, 40.53 and 18.05 % with ten views (the run's
notes).
"""

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns run #170's recipe for a dataset, as in configs/alexnet.py."""
  config = alexnet_2012.get_config(data)
  if data == 'digits':
    return config
  # The run's notes give no end; this is about as long as #145.
  config.duration = '90 epochs'
  config.schedule.name = 'geometric'
  # "epoch 68: set color noise to 0", "epoch 74: set conv1 epsw to 0".
  config.augmentation.lighting_until_epoch = 68.0
  config.schedule.steps = ((74.0, 'conv1', 'both', 0.0),)
  return config
