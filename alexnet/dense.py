"""Dense views: the network at every place of whole images, at several scales.

The fully connected layers become convolutions, 6 x 6 and then 1 x 1, with the
same parameters. An image of 224 pixels has one place, and then this is the
ordinary network; one of 256 x 320 has 2 x 4, 32 pixels apart. At each place the
network sees nearly what it would see of a crop there, but for the borders of
its convolutions: a crop has zeros around it where a place has more image
(docs/dense.md).
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from alexnet import batching, models, photos
from alexnet.errors import ConfigError
from alexnet.photos import Images
from input_pipeline import preprocessing
from input_pipeline.errors import ImageError

if TYPE_CHECKING:  # It imports this module.
  from alexnet.trained import TrainedNetwork

# What is longer, in proportion, loses its ends.
LONGEST = 4.0


@dataclasses.dataclass(frozen=True)
class Map:
  """What a network says of the places of an image at one scale.

  Attributes:
    probabilities: [places down, places across, classes] float32.
    size: (height, width) of the image there, in pixels.
  """

  probabilities: np.ndarray
  size: tuple[int, int]


def parse_scales(given: Sequence[str] | None) -> tuple[int, ...] | None:
  """Reads what a flag has; None if it is not set.

  Raises:
    ConfigError: not whole numbers.
  """
  try:
    return tuple(map(int, given)) if given is not None else None
  except ValueError as error:
    raise ConfigError(
        f'--scales is {",".join(given)}: wanted numbers of pixels, such as '
        '256,288'
    ) from error


def check_scales(
    scales: Sequence[int] | None, config: ml_collections.ConfigDict
) -> tuple[int, ...]:
  """The scales to use, in pixels of the shorter side of an image.

  Args:
    scales: as given; None or none: that of the squares.
    config: the whole config.

  Raises:
    ConfigError: one is smaller than what the network reads.
  """
  scales = tuple(scales or (config.dataset.size,))
  crop = config.augmentation.crop_size
  if min(scales) < crop:
    raise ConfigError(
        f'--scales is {",".join(map(str, scales))}: wanted at least {crop} '
        'pixels, which the network reads at once'
    )
  return scales


def map_scale(config: ml_collections.ConfigDict) -> int:
  """The scale of a map that is to be looked at, in pixels.

  That of the squares has too few places: 2 x 2 in the paper's network, where
  this one, of two crops, has 8 x 8.
  """
  return max(config.dataset.size, 2 * config.augmentation.crop_size)


def stride(model: ml_collections.ConfigDict) -> int:
  """Distance of two places, in pixels, of the `model` part of a config."""
  distance = 1
  for name in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6'):
    if model[name].features:
      distance *= model[name].stride
    if 'pool' in model[name].after:
      distance *= model.pool.stride
  return distance


def batch_size_for(config: ml_collections.ConfigDict, pixels: float) -> int:
  """About as many pixels at once as of centre crops, to fit the memory."""
  views = 1 + config.augmentation.flip
  share = pixels * views / config.augmentation.crop_size**2
  return max(1, int(config.evaluation_batch_size / share))


def stream(
    network: 'TrainedNetwork',
    images: Images,
    scales: Sequence[int] | None,
    batch_size: int | None = None,
) -> Iterator[list[Map] | ImageError]:
  """Maps of class probabilities of any number of images, see `batching`.

  Args:
    network: the network.
    images: see `TrainedNetwork.squares`; all of an image is used, unless it is
      more than LONGEST times as long as wide.
    scales: see `check_scales`.
    batch_size: images read at once.

  Yields:
    For each image its maps, one for each scale, each the mean of that of the
    image and of that of its mirror image, turned back; or the error by which
    the image cannot be used.
  """
  scales = check_scales(scales, network.config)
  compiled = network.compiled('dense', _maps_of(network.model))
  if batch_size is None:
    # Photos are half as long again as wide.
    pixels = 1.5 * sum(scale**2 for scale in scales)
    batch_size = batch_size_for(network.config, pixels)

  def read(image):
    image = photos.open_image(image)
    return [whole(network, image, scale) for scale in scales]

  def begin(items):
    places = collections.defaultdict(list)
    for i, pictures in enumerate(items):
      for j, picture in enumerate(pictures):
        places[picture.shape].append((i, j))
    results = [[None] * len(scales) for _ in items]
    pending = []
    for shape, of_shape in places.items():
      count = batching.padded(len(of_shape), batch_size * len(scales))
      batch = np.zeros((count, *shape), np.uint8)
      for place, (i, j) in enumerate(of_shape):
        batch[place] = items[i][j]
      pending.append((of_shape, compiled(batch)))
    return items, results, pending

  def finish(all_pending):
    items, results, pending = all_pending
    for of_shape, maps in pending:
      for (i, j), one in zip(of_shape, np.asarray(maps)):
        results[i][j] = Map(one, items[i][j].shape[:2])
    return results

  return batching.stream(images, read, begin, finish, batch_size)


def whole(
    network: 'TrainedNetwork', image: Image.Image, scale: int
) -> np.ndarray:
  """What a network sees of an image at a scale, [height, width, 3] uint8."""
  if network.inputs.aspect == 'warp':
    box = preprocessing.whole(scale)
    return preprocessing.resized(image, aspect='warp', box=box)
  return preprocessing.resized_whole(
      image, scale, step=stride(network.config.model), longest=LONGEST
  )


def _maps_of(model):
  model = models.everywhere(model)

  def maps(params, images, views):
    x = views.dense({'image': images})
    logits = model.apply({'params': params}, x.reshape(-1, *x.shape[2:]))
    maps = jax.nn.softmax(logits)
    maps = maps.reshape(*x.shape[:2], *maps.shape[1:])
    one, *mirrored = jnp.unstack(maps, axis=1)
    return (one + mirrored[0][:, :, ::-1]) / 2 if mirrored else one

  return maps


def mean(maps: Sequence[Map]) -> np.ndarray:
  """[classes]: the mean over scales of the mean over places."""
  return np.mean([one.probabilities.mean((0, 1)) for one in maps], axis=0)


def heat_map(
    maps: Sequence[Map],
    label: int,
    size: tuple[int, int],
    model: ml_collections.ConfigDict,
    crop: int,
) -> np.ndarray:
  """The probability of a class over an image.

  Args:
    maps: of the image.
    label: of the class.
    size: (height, width) of the result; the shorter side is as much of the
      image as that of the maps.
    model: the `model` part of the config.
    crop: side of what the network sees at a place, in pixels.

  Returns:
    [height, width] float32, the mean over the scales. At the middle of what the
    network sees at a place it is that place's, between these it is linear, and
    beyond the outermost constant.
  """
  distance = stride(model)
  total = np.zeros(size)
  for one in maps:
    values = one.probabilities[..., label]
    for axis in (0, 1):
      middles = crop / 2 + distance * np.arange(values.shape[axis])
      # From the middle on, where scales are alike: at the ends of the longer
      # side each is cut to a multiple of its own pixels.
      apart = np.arange(size[axis]) + 0.5 - size[axis] / 2
      pixels = apart * min(one.size) / min(size) + one.size[axis] / 2
      values = np.apply_along_axis(
          functools.partial(np.interp, pixels, middles), axis, values
      )
    total += values
  return (total / len(maps)).astype(np.float32)
