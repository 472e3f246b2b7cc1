"""Config of networks described by the authors' own files.

Connects configs/cuda_convnet.py with the parser and the towers.
"""

import dataclasses
import functools

import ml_collections

from alexnet.config.errors import ConfigError
from alexnet.config.validation import COMMON
from alexnet.cuda_convnet import parser, towers
from alexnet.cuda_convnet.model import CudaConvnet
from alexnet.cuda_convnet.rates import Rule
from alexnet.models import Network
from alexnet.models.layers import DTYPES
from input_pipeline.config import checks
from input_pipeline.files import paths, untrusted

# Checks for configs/cuda_convnet.py; unset fields are filled in from the files.
_CHECKS = {
    'layers': checks.Check('the path of a layer definition', checks.is_text),
    'layer_params': checks.PATH,
    'restart_rates': checks.FLAG,
    'ignore_init_functions': checks.FLAG,
    'model.layers_text': checks.Check('a text', checks.is_text).or_unset(),
    'model.params_text': checks.Check('a text', checks.is_text).or_unset(),
    'model.image_size': checks.SIDE.or_unset(),
    'model.towers': COMMON['model.towers'].or_unset(),
    'optimizer.momentum': checks.BELOW_ONE.or_unset(),
    'augmentation.flip': checks.FLAG.or_unset(),
    'augmentation.lighting': COMMON['augmentation.lighting'].or_unset(),
    # The files give rates and decays.
    'schedule.name': checks.choice(
        'definition', 'constant', 'plateau', 'steps', 'geometric'
    ),
    'optimizer.weight_decay': None,
    'optimizer.bias_decay_multiplier': None,
    'optimizer.layer_decay_factors': None,
}
# Rates of weights and biases at the start of the authors' runs.
RESTART_RATES = (0.01, 0.02)
# Largest size of a file in bytes, far beyond any network.
_LARGEST_FILE = 2**20

# {layer: {parameter: rule}}
Rules = dict[str, dict[str, Rule]]


def complete(config: ml_collections.ConfigDict) -> None:
  """Adds the contents of the two files to a config.

  Sets model.layers_text, params_text, image_size, towers and num_classes,
  optimizer.momentum, and unset augmentation fields that depend on the dataset.
  A workdir's config has the texts already; then no file is read.

  Args:
    config: the whole config, see configs/cuda_convnet.py.

  Raises:
    ConfigError: a file is not set, cannot be read, or has an error, whose file,
      line and reason the message names.
  """
  model = config.model
  if model.layers_text is None:
    if not config.layers:
      raise ConfigError(
          'no layer definition is named: write its path behind the colon, '
          '--config=configs/cuda_convnet.py:PATH/layers-145.cfg'
      )
    if config.layer_params is None:
      raise ConfigError(
          f'{config.layers} needs its parameter file: set '
          '--config.layer_params=PATH/layer-params-145.cfg'
      )
    model.layers_text = _text(config.layers, 'behind the colon of --config')
    model.params_text = _text(config.layer_params, 'in --config.layer_params')
  model.image_size = config.augmentation.crop_size
  definition = parser.parse(
      model.layers_text,
      model.params_text,
      files=(config.layers or 'layers', config.layer_params or 'params'),
      side=model.image_size,
      ignore_init_functions=config.ignore_init_functions,
  )
  if model.num_classes not in (None, definition.classes):
    raise ConfigError(
        f'model.num_classes is {model.num_classes}, but {config.layers} has '
        f'{definition.classes} outputs: leave the field unset'
    )
  model.num_classes = definition.classes
  model.towers = towers.pair(definition).towers
  if config.optimizer.momentum is None:
    config.optimizer.momentum = definition.momentum
  augmentation, digits = config.augmentation, config.dataset.name == 'digits'
  if augmentation.flip is None:
    augmentation.flip = not digits
  if augmentation.lighting is None:
    augmentation.lighting = 'none' if digits else 'standard_deviation'
  if augmentation.lighting == 'none':
    augmentation.lighting_divisor = 1.0


def _text(path, where):
  try:
    return untrusted.read_text(paths.local(path), _LARGEST_FILE)
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or (
        'it is not text' if isinstance(error, UnicodeDecodeError) else error
    )
    raise ConfigError(
        f'cannot read {path} ({reason}): name the file {where}'
    ) from error


def create(model: ml_collections.ConfigDict) -> CudaConvnet:
  """Builds the network's module, see `models.create_model`."""
  return CudaConvnet(
      network(model), dtype=DTYPES[model.dtype], precision=model.precision
  )


def network(model: ml_collections.ConfigDict) -> towers.Network:
  """Parses the network from a config's `model` section, which has the texts."""
  if None in (model.layers_text, model.params_text, model.image_size):
    raise ConfigError(
        'model.layers_text, params_text and image_size are not set: call '
        'complete(config) first'
    )
  return _network(model.layers_text, model.params_text, model.image_size)


@functools.lru_cache(maxsize=8)
def _network(layers, params, side):
  # Ignoring init functions was decided when the files were read.
  definition = parser.parse(
      layers, params, side=side, ignore_init_functions=True
  )
  return towers.pair(definition)


def parameter_rules(config: ml_collections.ConfigDict) -> Rules:
  """Returns the training rule of each parameter.

  Args:
    config: the whole config, after `complete`.
  """
  of_layers = network(config.model).rules()
  if not config.restart_rates:
    return of_layers
  kernel, bias = RESTART_RATES
  return {
      layer: {
          name: dataclasses.replace(
              rule, rate=bias if name == 'bias' else kernel
          )
          for name, rule in of_parameters.items()
      }
      for layer, of_parameters in of_layers.items()
  }


NETWORK = Network(
    create=create,
    checks=_CHECKS,
    complete=complete,
    outputs_are_given=True,
    parameter_rules=parameter_rules,
)
