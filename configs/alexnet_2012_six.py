"""Six convolutions: the network of run #146 (paper §6, "1 CNN*").

Run #145 with one more convolution over the last pooling, of 256 features that
read both towers: 60,965,224 + 590,080 = 61,555,304 parameters. Everything else,
including the schedule, is from configs/alexnet_2012.py.

  python main.py --config=configs/alexnet_2012_six.py:imagenet2012 \
      --workdir=runs/six

This command trains it on ILSVRC-2012 alone. The paper and the log first train
it on more of ImageNet and then fine-tune it, with these configs:

  configs/alexnet_2012_six_pretraining.py    run #146-2009
  configs/alexnet_2012_six_finetuning.py     run #146-2012-2009
"""

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns run #146's network with #145's recipe for a dataset."""
  config = alexnet_2012.get_config(data)
  # 3 x 3, padded, reads both towers, deviation 0.03, bias 1: see alexnet.py.
  config.model.conv6.features = 256
  return config
