"""A network of the authors' own files, trained with the rates in them.

The two files are a layer definition and its parameter file, as in
`layers/` of https://github.com/computerhistory/AlexNet-Source-Code; which of
them run, and what each type of layer means here, is in docs/cuda_convnet.md.

  python main.py --config=configs/cuda_convnet.py:PATH/layers-153.cfg \
      --config.layer_params=PATH/layer-params-153.cfg --workdir=runs/153

trains the network of #153 on the digits. Any dataset of configs/alexnet.py goes
by --config.dataset.name: imagenet2012; folder, with --config.dataset.train_dir;
prepared, with --config.dataset.dir. A path may not have a colon in it.

A released parameter file holds the rates that its run ended with. For a run
that was steered by hand, start from the authors' first rates instead, 0.01 and
0.02 for biases, and give its history as a schedule. That of #145 (the epochs
are in its parameter file) is, with

  --config=configs/cuda_convnet.py:PATH/layers-145.cfg \
  --config.layer_params=PATH/layer-params-145.cfg \
  --config.duration='91 epochs' --config.restart_rates=True \
  --config.augmentation.lighting_until_epoch=67.0 \
  --config.schedule.steps="((25.0, 'all', 'kernel', 1e-3),
      (51.0, 'all', 'kernel', 1e-4), (67.0, 'conv1', 'kernel', 1e-5),
      (72.0, 'conv1', 'both', 0.0), (79.0, 'all', 'kernel', 1e-5),
      (79.0, 'conv1', 'kernel', 0.0))"

the one of configs/alexnet_2012.py, where conv1 stands for conv1a and conv1b.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import alexnet_2012


def get_config(path: str = '') -> ml_collections.ConfigDict:
  """Returns the recipe for a layer definition.

  Args:
    path: of the definition, from the current directory.
  """
  # How run #145 saw its images. Its rates come from the files.
  config = alexnet_2012.get_config('folder')
  config.dataset.name = 'digits'
  config.duration = '90 epochs'

  # The definition, its parameters.
  config.layers = path
  config.layer_params = placeholder(str)
  # Begin with 0.01 for weights and 0.02 for biases, in all layers, instead of
  # the parameter file's rates. Schedules and decays are still the file's.
  config.restart_rates = False
  # Where a layer names a Python function of the authors that loads an earlier
  # run's weights: start from its initW and initB instead of stopping.
  config.ignore_init_functions = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'cuda_convnet'
  # As in configs/alexnet.py.
  config.model.dtype = 'float32'
  config.model.precision = 'tensorfloat32'
  # Set when a run starts, from the files: their texts, the number of outputs
  # (classes that the dataset lacks are never right) and of towers; and the side
  # of the images, from augmentation.crop_size.
  config.model.layers_text = placeholder(str)
  config.model.params_text = placeholder(str)
  config.model.image_size = placeholder(int)
  config.model.num_classes = placeholder(int)
  config.model.towers = placeholder(int)

  # Decay and momentum are the file's; here only to use another momentum.
  del config.optimizer.weight_decay
  del config.optimizer.bias_decay_multiplier
  del config.optimizer.layer_decay_factors
  config.optimizer.momentum = placeholder(float)

  # 'definition': each parameter's rate and schedule from the parameter file,
  # over the run's duration; after that `schedule.steps`, if any, as
  # (epoch, layer or 'all', 'kernel' or 'bias' or 'both', rate). The other names
  # are those of configs/alexnet.py and know nothing of the file's rates.
  config.schedule.name = 'definition'
  config.schedule.steps = ()

  # Unset: as for #145, but digits are neither mirrored nor lit.
  config.augmentation.flip = placeholder(bool)
  config.augmentation.lighting = placeholder(str)
  config.augmentation.lighting_until_epoch = placeholder(float)
  return config
