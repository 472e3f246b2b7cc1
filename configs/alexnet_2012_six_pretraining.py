"""Run #146-2009: six convolutions, trained on the 10,184 classes of 2009.

The paper (§6) trained networks with a sixth convolution over the last pooling
on a larger release of ImageNet first. This config follows the log, which used
the release of Fall 2009 and started from run #145's convolutions, with new
other layers. Prepare a folder of that release (a subfolder per class), then

  python main.py --config=configs/alexnet_2012.py:imagenet2012 \
      --workdir=runs/alexnet_2012
  python main.py --config=configs/alexnet_2012_six_pretraining.py:prepared \
      --config.dataset.dir=DIR --config.pretrained.workdir=runs/alexnet_2012 \
      --workdir=runs/six_2009

and continue with configs/alexnet_2012_six_finetuning.py.
"""

import ml_collections

from configs import alexnet_2012_six


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns run #146-2009's recipe for a dataset, as in alexnet_2012_six.py."""
  config = alexnet_2012_six.get_config(data)
  # "initialized from 145 (up to conv5)". Set `workdir` on the command line.
  config.pretrained.layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
  if data == 'digits':
    return config

  # The log's notes: "init eps 0.001 on conv1-5, 0.01 on fc and conv6; epoch
  # 2.16: 0.001 on fc, conv6; epoch 6.65: end". Taken as the kernels' rates;
  # biases keep theirs, as in run #145.
  config.duration = '6.65 epochs'
  config.augmentation.lighting_until_epoch = None
  config.schedule.name = 'steps'
  config.schedule.steps = (
      *((0.0, f'conv{i}', 'kernel', 1e-3) for i in range(1, 6)),
      (2.16, 'all', 'kernel', 1e-3),
  )
  return config
