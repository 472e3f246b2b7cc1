"""Run #146-2012-2009: six convolutions, fine-tuned on ILSVRC-2012.

Starts from the run of configs/alexnet_2012_six_pretraining.py, except the head:

  python main.py --config=configs/alexnet_2012_six_finetuning.py:imagenet2012 \
      --config.pretrained.workdir=runs/six_2009 --workdir=runs/six_2012

Expected: 39.10 % top-1 and 16.88 % top-5 error on the validation set with ten
views (the run's log), after 52 epochs. The paper's "1 CNN*" (Table 2: 39.0 and
16.6 %) was trained on the whole release of Fall 2011 first.
"""

import ml_collections

from configs import alexnet_2012_six


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns run #146-2012-2009's recipe, as in alexnet_2012_six.py."""
  config = alexnet_2012_six.get_config(data)
  # "initialized from the run on 2009-10k". Set `workdir` on the command line.
  config.pretrained.layers = (
      'conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6', 'fc6', 'fc7'
  )
  if data == 'digits':
    return config

  # The log's notes: "init epsW 0.001, 0.0001 on conv1; epoch 3: conv1 1e-5;
  # epoch 4: conv1 0; epoch 22: 1e-4; epoch 38: colour noise 0; epoch 42: 1e-5;
  # epoch 52 end". epsW are rates of kernels; a layer at 0 is frozen as in run
  # #145, its biases too.
  config.duration = '52 epochs'
  config.augmentation.lighting_until_epoch = 38.0
  config.schedule.name = 'steps'
  config.schedule.steps = (
      (0.0, 'all', 'kernel', 1e-3),
      (0.0, 'conv1', 'kernel', 1e-4),
      (3.0, 'conv1', 'kernel', 1e-5),
      (4.0, 'conv1', 'both', 0.0),
      (22.0, 'all', 'kernel', 1e-4),
      (22.0, 'conv1', 'kernel', 0.0),
      (42.0, 'all', 'kernel', 1e-5),
      (42.0, 'conv1', 'kernel', 0.0),
  )
  return config
