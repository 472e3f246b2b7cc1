"""A network from the authors' own files, trained with the rates in them.

The two files are a layer definition and its parameter file, as in `layers/` of
https://github.com/computerhistory/AlexNet-Source-Code. docs/cuda_convnet.md
lists the files that run and explains each type of layer.

  python main.py --config=configs/cuda_convnet.py:PATH/layers-153.cfg \
      --config.layer_params=PATH/layer-params-153.cfg --workdir=runs/153

This trains the network of #153 on the digits. For the other datasets of
configs/alexnet.py set --config.dataset.name: imagenet2012; folder, with
--config.dataset.train_dir; or prepared, with --config.dataset.dir. Paths must
not contain a colon.

A released parameter file holds the rates at the end of its run. To reproduce a
run that was adjusted by hand, start from the authors' first rates, 0.01 and
0.02 for biases, and set its history as a schedule. For #145 (the epochs are in
its parameter file) the command has

  --config=configs/cuda_convnet.py:PATH/layers-145.cfg \
  --config.layer_params=PATH/layer-params-145.cfg \
  --config.duration='91 epochs' --config.restart_rates=True \
  --config.augmentation.lighting_until_epoch=67.0 \
  --config.schedule.steps="((25.0, 'all', 'kernel', 1e-3),
      (51.0, 'all', 'kernel', 1e-4), (67.0, 'conv1', 'kernel', 1e-5),
      (72.0, 'conv1', 'both', 0.0), (79.0, 'all', 'kernel', 1e-5),
      (79.0, 'conv1', 'kernel', 0.0))"

as in configs/alexnet_2012.py, where conv1 stands for conv1a and conv1b.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import alexnet_2012


def get_config(path: str = '') -> ml_collections.ConfigDict:
  """Returns the recipe for a layer definition.

  Args:
    path: path of the definition, from the current directory.
  """
  # Run #145's augmentation. Its rates come from the files.
  config = alexnet_2012.get_config('folder')
  config.dataset.name = 'digits'
  config.duration = '90 epochs'

  # Paths of the definition and of its parameter file.
  config.layers = path
  config.layer_params = placeholder(str)
  # Start all layers with 0.01 for weights and 0.02 for biases instead of the
  # parameter file's rates. Schedules and decays are still the file's.
  config.restart_rates = False
  # Some layers name a Python function of the authors that loads an earlier
  # run's weights: start from initW and initB instead of stopping.
  config.ignore_init_functions = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'cuda_convnet'
  # As in configs/alexnet.py.
  config.model.dtype = 'float32'
  config.model.precision = 'tensorfloat32'
  # Set when a run starts: the files' texts, their numbers of outputs (which may
  # include classes that the dataset lacks) and towers; and the side of the
  # images, from augmentation.crop_size.
  config.model.layers_text = placeholder(str)
  config.model.params_text = placeholder(str)
  config.model.image_size = placeholder(int)
  config.model.num_classes = placeholder(int)
  config.model.towers = placeholder(int)

  # Decay and momentum are the file's; set this only to change the momentum.
  del config.optimizer.weight_decay
  del config.optimizer.bias_decay_multiplier
  del config.optimizer.layer_decay_factors
  config.optimizer.momentum = placeholder(float)

  # 'definition': each parameter's rate and schedule from the parameter file,
  # over the run's duration, then `schedule.steps`, if any, as (epoch, layer or
  # 'all', 'kernel' or 'bias' or 'both', rate). The other names are those of
  # configs/alexnet.py and ignore the file's rates.
  config.schedule.name = 'definition'
  config.schedule.steps = ()

  # Unset: as in #145, but without flips and lighting for digits.
  config.augmentation.flip = placeholder(bool)
  config.augmentation.lighting = placeholder(str)
  config.augmentation.lighting_until_epoch = placeholder(float)
  return config
