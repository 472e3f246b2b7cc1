"""Checks of the fields that describe the data.

One row per field of `dataset` and `augmentation`.
"""

from collections.abc import Iterator

import ml_collections

from input_pipeline.config import checks
from input_pipeline.errors import DataError

# {dotted field: its check}
CHECKS = {
    'dataset.name': checks.TEXT,
    'dataset.train_dir': checks.PATH,
    'dataset.eval_dir': checks.PATH,
    'dataset.eval_fraction': checks.FRACTION,
    'dataset.split_seed': checks.SEED.or_unset(),
    'dataset.copies': checks.choice('warn', 'together'),
    'dataset.dir': checks.PATH,
    'dataset.train_split': checks.TEXT,
    'dataset.eval_split': checks.TEXT,
    'dataset.size': checks.SIDE,
    'dataset.background': checks.BACKGROUND,
    'dataset.order': checks.choice('index_shuffle', 'argsort'),
    'dataset.statistics_dir': checks.PATH,
    'dataset.stalled_after': checks.POSITIVE,
    'dataset.processes': checks.whole(0, 256),
    'dataset.mean': checks.choice('image', 'channels', 'imagenet_channels'),
    'dataset.pca': checks.choice('imagenet', 'dataset'),
    'augmentation.crop_size': checks.SIDE,
    'augmentation.crop_offsets': checks.SIDE,
    'augmentation.flip': checks.FLAG,
    'augmentation.images_per_crop': checks.whole(1),
    'augmentation.mean_crop': checks.choice('under', 'centre'),
    'augmentation.lighting': checks.choice(
        'eigenvalue', 'standard_deviation', 'none'
    ),
    'augmentation.lighting_scale': checks.NOT_NEGATIVE,
    'augmentation.lighting_divisor': checks.POSITIVE,
    'augmentation.lighting_until_epoch': checks.NOT_NEGATIVE.or_unset(),
}


def conflicts(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields conflicts between fields that are valid by themselves."""
  size, crop = config.dataset.size, config.augmentation.crop_size
  if crop > size:
    yield (
        f'augmentation.crop_size is {crop} and dataset.size is {size}: '
        'expected a crop that is not larger than the image'
    )
  if config.augmentation.crop_offsets > size - crop + 1:
    yield (
        f'augmentation.crop_offsets is {config.augmentation.crop_offsets}: '
        f'expected 1 to {size - crop + 1}, which fit a {crop} crop into {size} '
        'pixels'
    )


def check(config: ml_collections.ConfigDict) -> None:
  """Raises DataError for an invalid field of the data.

  Args:
    config: the whole config.
  """
  for find in (lambda config: checks.complaints(config, CHECKS), conflicts):
    for message in find(config):
      raise DataError(message)
