"""Checks of the fields that describe the data.

One row per field of `dataset` and `augmentation`.
"""

from collections.abc import Iterator

import ml_collections

from input_pipeline.config import checks
from input_pipeline.errors import DataError
from input_pipeline.images import allowed


def _range(wanted, accepts):
  numbers = checks.tuple_of('', accepts, least=2)
  return checks.Check(
      f'(smallest, largest), {wanted}',
      lambda value: numbers.accepts(value)
      and len(value) == 2
      and value[0] <= value[1],
  )


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
    'dataset.channels': checks.choice(1, 3),
    'dataset.border': checks.whole(0, allowed.LARGEST_SQUARE // 2),
    'dataset.background': checks.BACKGROUND,
    'dataset.order': checks.choice('index_shuffle', 'argsort'),
    'dataset.statistics_dir': checks.PATH,
    'dataset.stalled_after': checks.POSITIVE,
    'dataset.processes': checks.whole(0, 256),
    'dataset.mean': checks.choice('image', 'channels', 'imagenet_channels'),
    'dataset.pca': checks.choice('imagenet', 'dataset'),
    'augmentation.crop': checks.choice('offsets', 'scale', 'area'),
    'augmentation.crop_size': checks.SIDE,
    'augmentation.crop_offsets': checks.whole(1, 2 * allowed.LARGEST_SQUARE),
    'augmentation.pad': checks.whole(0, allowed.LARGEST_SQUARE // 2),
    'augmentation.scale': _range(
        f'from 1 to {allowed.LARGEST_SQUARE}, whole numbers of pixels',
        checks.SIDE.accepts,
    ),
    'augmentation.area': _range(
        'more than 0 and at most 1',
        lambda value: checks.POSITIVE.accepts(value) and value <= 1,
    ),
    'augmentation.aspect': _range(
        'from 1/16 to 16',
        lambda value: checks.POSITIVE.accepts(value) and 1 / 16 <= value <= 16,
    ),
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
  if 2 * config.dataset.border >= size:
    yield (
        f'dataset.border is {config.dataset.border} and dataset.size is '
        f'{size}, which includes it: expected some pixels inside the border'
    )
  if config.augmentation.crop == 'offsets':
    yield from _conflicts_of_offsets(config)
  else:
    yield from _conflicts_of_regions(config)


def _conflicts_of_offsets(config):
  augmentation, crop = config.augmentation, config.augmentation.crop_size
  square = config.dataset.size + 2 * augmentation.pad
  if augmentation.crop_offsets > square - crop + 1:
    yield (
        f'augmentation.crop_offsets is {augmentation.crop_offsets}: expected 1 '
        f'to {square - crop + 1}, which fit a {crop} crop into {square} pixels'
    )


def _conflicts_of_regions(config):
  augmentation = config.augmentation
  kind = augmentation.crop
  if config.dataset.border or augmentation.pad:
    yield (
        f"augmentation.crop is '{kind}', which cuts from the image itself, but "
        f'dataset.border is {config.dataset.border} and augmentation.pad '
        f"{augmentation.pad}: set both to 0, or crop to 'offsets'"
    )
  if augmentation.mean_crop != 'centre':
    yield (
        f"augmentation.crop is '{kind}' and mean_crop '{augmentation.mean_crop}"
        "': no part of the mean image lies under such a crop: set "
        "--config.augmentation.mean_crop='centre'"
    )
  if kind == 'scale' and augmentation.scale[0] < augmentation.crop_size:
    yield (
        f'augmentation.scale begins at {augmentation.scale[0]}: expected at '
        f'least crop_size, {augmentation.crop_size}'
    )


def check(config: ml_collections.ConfigDict) -> None:
  """Raises DataError for an invalid field of the data.

  Args:
    config: the whole config.
  """
  for find in (lambda config: checks.complaints(config, CHECKS), conflicts):
    for message in find(config):
      raise DataError(message)
