"""Batches as a pure function of (seed, step), with no state to save.

A chain of tf.data makes them: a range of steps, the random draws of each step
(`batches/draws.py`), its pixels (`batches/pixels.py`), and a few steps of
prefetching. Training is an endless stream in which example i belongs to epoch
i // n, and batch s begins at example s * batch_size. So every epoch has every
image exactly once, and batches may span two epochs.

Batches consist of 8-bit pixels and a few numbers per image; the device does the
arithmetic (`alexnet/inference/views.py`).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import logging

from input_pipeline import statistics, statistics_cache
from input_pipeline.batches import draws, reading
from input_pipeline.batches import pixels as pixels_lib
from input_pipeline.batches.python_calls import Calls, as_it_is
from input_pipeline.batches.workers import Workers
from input_pipeline.config import fields
from input_pipeline.errors import DataError
from input_pipeline.files import stalls, threads
from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.images import crops
from input_pipeline.sources import Source

# Images read in a call outside batches.
_CHUNK = 16
_ENDLESS = np.iinfo(np.int64).max

Batch = dict[str, np.ndarray]


class Example(NamedTuple):
  """One example of the training stream.

  Attributes:
    epoch: its epoch, from 0.
    place: its position in that epoch.
    index: index of the image in the training set.
    name: name of the image, relative to the set.
  """

  epoch: int
  place: int
  index: int
  name: str


class Pipeline:
  """The data of one run.

  Attributes:
    train: the training set.
    evaluation: the evaluation set.
    statistics: statistics of the training set's images; None if the config uses
      only ImageNet's, which are built in.
    mean_image: [size, size, channels] float32, subtracted on the device.
    components: principal components of the colours, for lighting: ([channels]
      standard deviations in levels of 0..255, [channels, channels] eigenvectors
      as columns).
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      train: Source,
      evaluation: Source,
      *,
      process: int = 0,
      processes: int = 1,
      report: Callable[[str], None] = logging.warning,
  ):
    """Opens the data; computes the training set's statistics on first use.

    Args:
      config: the whole config; reads dataset, augmentation, seed and the batch
        sizes.
      train: the training set.
      evaluation: the evaluation set.
      process: index of the part of each batch to read; see
        `sharding.part_of_process`.
      processes: number of parts.
      report: called with a message, in a separate thread, about images that
        take too long to read (config.dataset.stalled_after).

    Raises:
      DataError: a field is invalid, or an image cannot be read.
    """
    _check(config, processes)
    _check_size(config, train, evaluation)
    _check_scales(config, train)
    self._config = config
    self._size = config.dataset.size
    self.train = train
    self.evaluation = evaluation
    self._process = process
    self._processes = processes
    stalled_after = config.dataset.stalled_after
    self._watch = stalls.Watch(stalled_after, report)
    self._workers: Workers | None = None
    if config.dataset.processes:
      self._workers = Workers(
          (train, evaluation), config.dataset.processes,
          stalled_after=stalled_after, report=report,
      )
    self.statistics: statistics.Statistics | None = None
    wanted = config.dataset.mean, config.dataset.pca
    if wanted != ('imagenet_channels', 'imagenet'):
      self.statistics = self._statistics()
    means, self.components = statistics.imagenet(config.dataset.channels)
    if config.dataset.pca == 'dataset':
      self.components = self.statistics.principal_components()
    self.mean_image = self._mean_to_subtract(means)

  def training_batches(
      self, first_step: int, *, lighting_steps: int | None = None
  ) -> Iterator[Batch]:
    """Yields training batches without end, from a step on.

    Args:
      first_step: step of the first batch; 0 at the start of the run.
      lighting_steps: step from which batches have no PCA lighting and no
        divisor; None for lighting in all.

    Yields:
      This process's part of each batch: 'image' [examples, crop, crop,
      channels] uint8 crops before mirroring, 'label' [examples] int32, and
      'offset', 'flip', 'shift' and 'divisor' of `draws.Draws`.

    Raises:
      DataError: an image cannot be read; the message names it.
    """
    count = self._config.batch_size // self._processes

    def draw(step):
      first = step * self._config.batch_size + self._process * count
      lit = lighting_steps is None or step < lighting_steps
      return self._draw(first, count, lit)._asdict()

    steps = tf.data.Dataset.range(first_step, _ENDLESS)
    return self._batches(self.train, steps, draw, self._crop_form())

  def training_examples(self, step: int) -> list[Example]:
    """Lists the examples of a training batch, of all processes."""
    size, length = self._config.batch_size, len(self.train)
    examples = []
    for number, index in enumerate(self.plan(step * size, size).index.tolist()):
      epoch, place = divmod(step * size + number, length)
      name = self.train.relative_name(index)
      examples.append(Example(epoch, place, index, name))
    return examples

  def plan(self, first: int, count: int, *, lit: bool = True) -> draws.Draws:
    """Returns the draws for a part of the training stream, as arrays.

    Args:
      first: index of the first example in the stream.
      count: number of examples.
      lit: whether to apply the config's PCA lighting.
    """
    drawn = self._draw(first, count, lit)
    return draws.Draws(*(tensor.numpy() for tensor in drawn))

  def crops(self, plan: draws.Draws) -> np.ndarray:
    """Reads the crops of a plan, [count, crop, crop, channels] uint8."""
    return reading.read(
        plan.index, plan.offset, plan.words,
        source=self.train, watch=self._watch, form=self._crop_form(),
    )[0]

  def evaluation_batches(
      self, batch_size: int, image_size: int | None = None
  ) -> Iterator[Batch]:
    """Yields the evaluation set once, every example exactly once.

    Args:
      batch_size: number of images in a batch, over all processes.
      image_size: side of the squares, in pixels; None for the config's.

    Yields:
      This process's part of each batch: 'image' [examples, size, size,
      channels] uint8, 'label' [examples] int32 and 'weight' [examples] float32,
      which is 0 for the padding of the last batch.

    Raises:
      DataError: an image cannot be read; the message names it.
    """
    count = batch_size // self._processes
    length = len(self.evaluation)

    def part(step):
      first = step * batch_size + self._process * count
      index = first + tf.range(count, dtype=tf.int64)
      weight = tf.cast(index < length, tf.float32)
      return {'index': tf.minimum(index, length - 1), 'weight': weight}

    steps = tf.data.Dataset.range(-(-length // batch_size))
    form = self._form(image_size or self._size)
    return self._batches(self.evaluation, steps, part, form)

  def evaluation_squares(self, indices: Sequence[int]) -> np.ndarray:
    """Reads evaluation images, [images, size, size, channels] uint8."""
    return self._some(self.evaluation, indices)[0]

  def sample(self, source: Source, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads evenly spaced images of a set.

    Args:
      source: the training or the evaluation set.
      count: number of images; images repeat if the set has fewer.

    Returns:
      [count, size, size, channels] uint8 and [count] int32 labels.
    """
    places = np.linspace(0, len(source) - 1, count)
    return self._some(source, np.round(places))

  def _statistics(self):
    """Returns the training set's statistics, as the network sees its images."""
    config = self._config.dataset
    inner = _inner_size(config)
    values = self.train.statistics()
    if values is None:
      values = statistics_cache.load_or_compute(
          self.train, self._squares(inner), config.statistics_dir, inner
      )
    if len(values.mean_image) != inner:  # Of stored rectangles.
      values = values.resized(inner)
    if config.border:
      values = values.framed(config.border)
    return values.grey() if config.channels == 1 else values

  def _mean_to_subtract(self, imagenet_means):
    config = self._config.dataset
    if config.mean == 'image':
      return self.statistics.mean_image
    means = imagenet_means
    if config.mean == 'channels':
      means = self.statistics.channel_means
    shape = (self._size, self._size, config.channels)
    return np.broadcast_to(means, shape).astype(np.float32)

  def _crop_form(self):
    augmentation = self._config.augmentation
    return self._form(
        augmentation.crop_size,
        square=self._size,
        pad=augmentation.pad,
        region=crops.of_config(augmentation),
    )

  def _form(self, size, square=0, **options):
    """Returns the form of the network's images, of this size."""
    config = self._config.dataset
    return reading.Form(
        size, square, config.channels, config.border, **options
    )

  def _draw(self, first, count, lit):
    config = self._config.augmentation
    if self._config.dataset.order != draws.METHOD:
      raise DataError(
          f"dataset.order is '{self._config.dataset.order}', of an earlier "
          'version of the program, which ordered images differently: '
          f"train with that version, or a new run with '{draws.METHOD}'"
      )
    axes = draws.lighting_axes(
        config.lighting, config.lighting_scale, *self.components
    )
    return draws.draw(
        first + tf.range(count, dtype=tf.int64),
        seed=self._config.seed,
        length=len(self.train),
        augmentation=config,
        axes=axes,
        lit=lit,
    )

  def _some(self, source, index):
    """Reads images [count, size, size, channels] and labels [count]."""
    batches = list(self._chunks(source, index, self._form(self._size)))
    return tuple(
        np.concatenate([batch[name] for batch in batches])
        for name in ('image', 'label')
    )

  def _squares(self, size):
    """Yields the training set's squares, [size, size, 3] uint8."""
    index, form = np.arange(len(self.train)), reading.Form(size, size)
    for batch in self._chunks(self.train, index, form):
      yield from batch['image']

  def _chunks(self, source, index, form):
    index = tf.data.Dataset.from_tensor_slices(np.asarray(index, np.int64))
    named = lambda index: {'index': index}
    return self._batches(source, index.batch(_CHUNK), named, form)

  def _batches(
      self,
      source: Source,
      numbers: tf.data.Dataset,
      draw: Callable[[tf.Tensor], dict[str, tf.Tensor]],
      form: reading.Form,
  ) -> Iterator[Batch]:
    """Builds the chain.

    Args:
      source: source of the images.
      numbers: dataset with one element per batch.
      draw: function from an element to the input of `pixels.pixels`.
      form: form of the images.
    """
    calls, options, at_once = Calls(), tf.data.Options(), threads.cores()
    read = functools.partial(reading.read, source=source, watch=self._watch)
    if self._workers:
      number = int(source is not self.train)
      read = functools.partial(self._workers.read, source=number)
      at_once = 2 * self._config.dataset.processes
      # A call that waits for a process occupies a thread; the default is one
      # per core.
      options.threading.private_threadpool_size = at_once + 1
    pixels = functools.partial(
        pixels_lib.pixels,
        calls=calls,
        read=read,
        form=form,
    )
    drawn = calls.while_open(numbers).map(as_it_is(draw))
    batches = drawn.map(
        as_it_is(pixels), num_parallel_calls=at_once, deterministic=True
    )
    return calls.batches(batches.prefetch(2).with_options(options))


def _check(config, processes):
  """Raises DataError for an invalid field of the pipeline."""
  fields.check(config)
  for field in ('batch_size', 'evaluation_batch_size'):
    if config[field] % processes:
      raise DataError(
          f'{field} is {config[field]}, which {processes} processes cannot '
          f'share equally: set --config.{field} to a multiple'
      )


def _inner_size(dataset):
  """Returns the side of the squares inside their border."""
  return dataset.size - 2 * dataset.border


def _check_size(config, *sources):
  inner = _inner_size(config.dataset)
  for source in sources:
    if source.size not in (None, inner):
      size = f'dataset.size is {config.dataset.size}'
      if config.dataset.border:
        size += f' with a border of {config.dataset.border}'
      raise DataError(
          f'{size}, but {source.name} has squares of {source.size} pixels: set '
          '--config.dataset.size='
          f'{source.size + 2 * config.dataset.border} (and '
          f'augmentation.crop_size), or prepare with --size={inner}'
      )
    if source.shorter is not None and source.shorter < inner:
      raise DataError(
          f'dataset.size is {config.dataset.size}, but the shorter sides of '
          f'{source.name} have {source.shorter} pixels: prepare with '
          f'--keep_aspect --size={inner}, or set a smaller '
          '--config.dataset.size'
      )


def _check_scales(config, train):
  stored = train.size or train.shorter
  longest = max(config.augmentation.scale)
  if config.augmentation.crop == 'scale' and stored and stored < longest:
    raise DataError(
        f'augmentation.scale is {tuple(config.augmentation.scale)}, but '
        f'{train.name} has images of {stored} pixels, which would only be '
        f'enlarged: prepare with --keep_aspect --size={longest}, or set a '
        'smaller --config.augmentation.scale'
    )
