"""Dense views: the network at all positions of whole images and scales.

The fully connected layers become convolutions, 6 x 6 and then 1 x 1, with the
same parameters. A 224 x 224 image has one position and gives the output of the
ordinary network; a 256 x 320 image has 2 x 4 positions, 32 pixels apart. At
each position the output is close to that of a crop there. It differs near the
crop's borders, where convolutions of a crop see zeros and those of a whole
image see more of the image (docs/dense.md).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from alexnet import models
from alexnet.checkpointing.input_spec import Inputs
from alexnet.config.errors import ConfigError
from alexnet.inference import batching, image_files
from alexnet.inference.image_files import Images
from input_pipeline import preprocessing
from input_pipeline.errors import ImageError
from input_pipeline.files import threads

# Longest allowed ratio of sides; the ends of longer images are cut off.
LONGEST = 4.0
# Pixels of the shorter side. At larger scales a network for crops of 224 pixels
# sees only details, and its maps take gigabytes.
LARGEST = 2048
# Largest size in bytes of waiting images and their maps, see `_Waiting`.
_WAITING = 2**27


class Network(Protocol):
  """The part of `TrainedNetwork` (predictor.py) that is used here."""

  config: ml_collections.ConfigDict
  class_names: tuple[str, ...]
  inputs: Inputs
  model: models.Module

  def compiled(self, name: str, function: Callable) -> Callable: ...


@dataclasses.dataclass(frozen=True)
class Map:
  """Predictions at all positions of an image at one scale.

  Attributes:
    probabilities: [positions down, positions across, classes] float32.
    size: (height, width) of the image at this scale, in pixels.
  """

  probabilities: np.ndarray
  size: tuple[int, int]


def parse_scales(given: Sequence[str] | None) -> tuple[int, ...] | None:
  """Parses --scales; None if the flag is not set.

  Raises:
    ConfigError: a scale is not a whole number.
  """
  try:
    return tuple(map(int, given)) if given is not None else None
  except ValueError as error:
    raise ConfigError(
        f'--scales is {",".join(given)}: expected numbers of pixels, such as '
        '256,288'
    ) from error


def check_scales(
    scales: Sequence[int] | None, config: ml_collections.ConfigDict
) -> tuple[int, ...]:
  """Checks the scales, in pixels of an image's shorter side.

  Args:
    scales: requested scales; None or empty for `dataset.size`.
    config: the run's whole config.

  Returns:
    The scales without duplicates, in their order.

  Raises:
    ConfigError: a scale is smaller than the network's input, or larger than
      LARGEST.
  """
  # A duplicate would count twice in the mean.
  scales = tuple(dict.fromkeys(scales or (config.dataset.size,)))
  crop = config.augmentation.crop_size
  if min(scales) < crop:
    raise ConfigError(
        f'--scales is {",".join(map(str, scales))}: expected at least {crop} '
        'pixels, which the network reads at once'
    )
  if max(scales) > LARGEST:
    raise ConfigError(
        f'--scales is {",".join(map(str, scales))}: expected at most {LARGEST} '
        'pixels'
    )
  return scales


def map_scale(config: ml_collections.ConfigDict) -> int:
  """Returns the scale for drawing a heat map, in pixels.

  At `dataset.size` there are too few positions: 2 x 2 in the paper's network.
  This scale, twice the crop size, has 8 x 8.
  """
  return max(config.dataset.size, 2 * config.augmentation.crop_size)


def batch_size_for(config: ml_collections.ConfigDict, pixels: float) -> int:
  """Returns the batch size for about the pixels of a batch of centre crops.

  Args:
    config: the run's whole config.
    pixels: number of pixels of an image.
  """
  views = 1 + config.augmentation.flip
  share = pixels * views / config.augmentation.crop_size**2
  return max(1, int(config.evaluation_batch_size / share))


def stream(
    network: Network,
    images: Images,
    scales: Sequence[int] | None,
    batch_size: int | None = None,
) -> Iterator[list[Map] | ImageError]:
  """Yields maps of class probabilities for any number of images, in order.

  Images wait for others of the same shape, so several results may come at once.
  Memory use does not grow with the number of images.

  Args:
    network: the network.
    images: images, see `TrainedNetwork.squares`. The whole image is used,
      unless its longer side is more than LONGEST times the shorter one.
    scales: lengths of the shorter side in pixels, see `check_scales`.
    batch_size: number of images of one shape computed at once; None for as many
      pixels as in a batch of the config's evaluation.

  Yields:
    For each image its maps, one per scale, or the error for an image that
    cannot be used. A map is the mean over the image and its mirror image,
    which is flipped back.
  """
  scales = check_scales(scales, network.config)
  compiled = network.compiled('dense', _maps_of(network.model))
  outputs = len(network.class_names)
  distance = network.model.stride

  def read(image):
    try:
      image = image_files.open_image(image, network.inputs.background)
      return [whole(network, image, scale) for scale in scales]
    except ImageError as error:
      return error

  def most(shape):
    return batch_size or batch_size_for(network.config, shape[0] * shape[1])

  def size_of(pictures):
    """Returns the size in bytes of a waiting image and its maps."""
    places = sum(p.shape[0] * p.shape[1] for p in pictures) // distance**2
    return sum(p.nbytes for p in pictures) + 4 * outputs * places

  waiting = _Waiting(compiled, most, size_of)
  with futures.ThreadPoolExecutor(threads.cores()) as pool:
    ahead = 2 * most((max(scales), max(scales)))
    for item in threads.in_order(pool, read, images, ahead=ahead):
      waiting.add(item)
      yield from waiting.finished()
    yield from waiting.rest()


class _Waiting:
  """Collects images of many shapes into batches of one shape.

  Results are in the order of the images, so an image of a rare shape holds up
  those that follow. If too many bytes wait, its batch starts before it is full.
  """

  def __init__(self, compiled, most, size_of):
    """Creates an empty queue.

    Args:
      compiled: function from a batch of images of one shape to their maps.
      most: function from a shape to the largest batch size.
      size_of: function from an image at all scales to its size in bytes, with
        its maps.
    """
    self._compiled = compiled
    self._most = most
    self._size_of = size_of
    # (pictures or error, maps by scale, bytes) in the order of the images.
    self._entries = collections.deque()
    self._first = 0  # Number of the first entry.
    self._bytes = 0
    self._of_shape = collections.defaultdict(list)  # {shape: [(number, scale)]}
    self._under_way = collections.deque()

  def add(self, item):
    """Adds the next image, as pictures of all scales, or its error."""
    number = self._first + len(self._entries)
    if isinstance(item, ImageError):
      self._entries.append(_Entry(item, (), 0))
      return
    entry = _Entry(item, [None] * len(item), self._size_of(item))
    self._entries.append(entry)
    self._bytes += entry.bytes
    for scale, picture in enumerate(item):
      self._of_shape[picture.shape].append((number, scale))
      self._begin(picture.shape, full=True)

  def finished(self):
    """Yields finished results; waits for some if memory is full."""
    while self._entries and (
        self._entries[0].is_complete or self._bytes > _WAITING
    ):
      yield self._next()

  def rest(self):
    """Yields the remaining results."""
    for shape in list(self._of_shape):
      self._begin(shape)
    while self._entries:
      yield self._next()

  def _next(self):
    entry = self._entries[0]
    if not entry.is_complete:
      for scale, picture in enumerate(entry.item):
        if entry.maps[scale] is None:
          self._begin(picture.shape)
    while not entry.is_complete:
      self._collect()
    self._entries.popleft()
    self._first += 1
    self._bytes -= entry.bytes
    return entry.item if isinstance(entry.item, ImageError) else entry.maps

  def _begin(self, shape, full=False):
    """Starts the batches of a shape: all images, or full batches only."""
    most, places = self._most(shape), self._of_shape[shape]
    while len(places) >= (most if full else 1):
      now, places[:most] = places[:most], []
      batch = np.zeros((batching.padded(len(now), most), *shape), np.uint8)
      for place, (number, scale) in enumerate(now):
        batch[place] = self._entries[number - self._first].item[scale]
      self._under_way.append((now, shape, self._compiled(batch)))
      # One batch is computed while another is collected; more take memory.
      if len(self._under_way) > 2:
        self._collect()

  def _collect(self):
    """Waits for the batch that was started first."""
    places, shape, maps = self._under_way.popleft()
    for (number, scale), one in zip(places, np.asarray(maps)):
      entry = self._entries[number - self._first]
      # A view would keep the whole batch in memory.
      entry.maps[scale] = Map(one.copy(), shape[:2])


@dataclasses.dataclass
class _Entry:
  """A waiting image: its pictures or error, its maps, its size in bytes."""

  item: Any
  maps: Any
  bytes: int

  @property
  def is_complete(self):
    return None not in self.maps


def whole(
    network: Network, image: Image.Image, scale: int
) -> np.ndarray:
  """Resizes an image to a scale; returns [height, width, channels] uint8."""
  border = network.config.dataset.border
  inner = scale - 2 * border
  if network.inputs.aspect == 'warp':
    box = preprocessing.whole(inner)
    pixels = preprocessing.resized(image, aspect='warp', box=box)
  else:
    pixels = preprocessing.resized_whole(
        image, inner, step=network.model.stride, longest=LONGEST
    )
  channels = network.config.dataset.channels
  return preprocessing.framed(pixels, border, channels)


def _maps_of(model):
  model = models.everywhere(model)

  def maps(variables, images, views):
    x = views.dense({'image': images})
    logits = model.apply(variables, x.reshape(-1, *x.shape[2:]))
    maps = jax.nn.softmax(logits)
    maps = maps.reshape(*x.shape[:2], *maps.shape[1:])
    one, *mirrored = jnp.unstack(maps, axis=1)
    return (one + mirrored[0][:, :, ::-1]) / 2 if mirrored else one

  return maps


def mean(maps: Sequence[Map]) -> np.ndarray:
  """Averages maps over positions, then over scales; returns [classes]."""
  return np.mean([one.probabilities.mean((0, 1)) for one in maps], axis=0)


def heat_map(
    maps: Sequence[Map],
    label: int,
    size: tuple[int, int],
    distance: int,
    crop: int,
) -> np.ndarray:
  """Computes the probability of a class over an image.

  Args:
    maps: the image's maps.
    label: label of the class.
    size: (height, width) of the result. Its shorter side covers as much of the
      image as that of the maps does.
    distance: distance of neighbouring positions, in pixels.
    crop: side of the network's input at a position, in pixels.

  Returns:
    [height, width] float32, the mean over scales. Each position's probability
    lies at the centre of its input, with linear interpolation between centres
    and constant values beyond the outermost.
  """
  total = np.zeros(size)
  for one in maps:
    values = one.probabilities[..., label]
    for axis in (0, 1):
      middles = crop / 2 + distance * np.arange(values.shape[axis])
      # Measured from the middle, where the scales coincide: the longer side is
      # cut to a multiple of the stride, at each scale differently.
      apart = np.arange(size[axis]) + 0.5 - size[axis] / 2
      pixels = apart * min(one.size) / min(size) + one.size[axis] / 2
      values = np.apply_along_axis(
          functools.partial(np.interp, pixels, middles), axis, values
      )
    total += values
  return (total / len(maps)).astype(np.float32)
