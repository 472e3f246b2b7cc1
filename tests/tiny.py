"""A config for tests of whole runs: few features, few images, seconds."""

from tests import testing


def get_config(data: str = 'folder'):
  config = testing.narrow_config(data)
  config.duration = '6 steps'
  config.evaluate_every = '3 steps'
  config.checkpoint_every = '2 steps'
  config.log_every = '1 step'
  config.schedule.name = 'constant'
  config.schedule.learning_rate = 0.0005
  return config


def get_small_config(data: str = 'folder'):
  """With crops of 72 pixels, for what is not about the size of images."""
  config = get_config(data)
  config.dataset.size, config.augmentation.crop_size = 76, 72
  config.augmentation.crop_offsets = 4
  return config


# The same for main.py.
SMALL = (
    '--config.dataset.size=76', '--config.augmentation.crop_size=72',
    '--config.augmentation.crop_offsets=4',
)
