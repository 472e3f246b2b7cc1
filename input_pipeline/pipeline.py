"""Batches as a pure function of (seed, step): nothing to save, nothing to seek.

Training is one endless stream of examples. Example i of the stream belongs to
epoch i // n and is the image at place i % n of that epoch's order; batch s is
the examples from s * batch_size on. Every epoch therefore shows every image
exactly once, and batches cross from one epoch into the next.

A batch leaves the host as 8-bit pixels and a few numbers for each image; the
device does the arithmetic (`alexnet/inference/views.py`).
"""

import atexit
import collections
import contextlib
import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import logging

from input_pipeline import preprocessing, statistics, statistics_cache
from input_pipeline.config import fields
from input_pipeline.errors import DataError
from input_pipeline.files import stalls, threads
from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.sources import Source

# Examples that a thread works on at a time.
_CHUNK = 16
# Bytes; what Eigen and XLA want of an array that they take as it is.
_ALIGNMENT = 64
_ENDLESS = np.iinfo(np.int64).max

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a part of the training stream will show.

  Attributes:
    index: [count] int64, which image of the training set.
    offset: [count, 2] int32, (top, left) of its crop.
    flip: [count] bool, whether the crop is mirrored.
    shift: [count, 3] float32, its colour shift, levels of 0..255.
    divisor: [count] float32, what its values are divided by in the end.
  """

  index: np.ndarray
  offset: np.ndarray
  flip: np.ndarray
  shift: np.ndarray
  divisor: np.ndarray


class Example(NamedTuple):
  """What is at a place of the training stream.

  Attributes:
    epoch: which one it belongs to, from 0.
    place: in the order of that epoch.
    index: of the image in the training set.
    name: of the image, relative to the set.
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
    statistics: of the training set's images; None if the config takes all it
      needs from ImageNet's, which are built in.
    mean_image: [size, size, 3] float32, to be subtracted on the device.
    components: of the colours that lighting adds: ([3] standard deviations in
      levels of 0..255, [3, 3] eigenvectors as columns).
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
      process: which part of each batch to read; see
        `sharding.part_of_process`.
      processes: number of parts.
      report: is told, in a thread of its own, of images that take long to read
        (config.dataset.stalled_after).

    Raises:
      DataError: a field that cannot work, or an image that cannot be read.
    """
    _check(config, processes)
    _check_size(config, train, evaluation)
    self._config = config
    self._size = config.dataset.size
    self._crop = config.augmentation.crop_size
    self.train = train
    self.evaluation = evaluation
    self._process = process
    self._processes = processes
    self._watch = stalls.Watch(config.dataset.stalled_after, report)
    self._threads = futures.ThreadPoolExecutor(threads.cores())
    # Neighbouring batches are made at once, and may be of two epochs.
    self._order = functools.lru_cache(maxsize=3)(
        lambda epoch: preprocessing.epoch_order(
            config.seed, epoch, len(train)
        )
    )
    self.statistics: statistics.Statistics | None = None
    wanted = config.dataset.mean, config.dataset.pca
    if wanted != ('imagenet_channels', 'imagenet'):
      self.statistics = train.statistics()
      if self.statistics is None:
        self.statistics = statistics_cache.load_or_compute(
            train,
            self._squares(train),
            config.dataset.statistics_dir,
            self._size,
        )
    if config.dataset.pca == 'imagenet':
      self.components = (
          statistics.IMAGENET_DEVIATIONS,
          statistics.IMAGENET_EIGENVECTORS,
      )
    else:
      self.components = self.statistics.principal_components()
    self.mean_image = self._mean_to_subtract()

  def training_batches(
      self, first_step: int, *, lighting_steps: int | None = None
  ) -> Iterator[Batch]:
    """Endless training batches from a step on.

    Args:
      first_step: of the run, 0 for the first batch.
      lighting_steps: batches from this one on have no PCA lighting and are not
        divided by its divisor; None: all have it.

    Yields:
      This process's part of each batch: 'image' [examples, crop, crop, 3] uint8
      crops that are not yet mirrored, 'label' [examples] int32, and of
      `Plan` 'offset', 'flip', 'shift' and 'divisor'.

    Raises:
      DataError: an image cannot be read; names it.
    """
    size = self._config.batch_size // self._processes

    def batch(step):
      first = step * self._config.batch_size + self._process * size
      lit = lighting_steps is None or step < lighting_steps
      plan = self.plan(first, size, lit=lit)
      boxes = [
          preprocessing.Box(top, left, self._crop, self._size)
          for top, left in plan.offset.tolist()
      ]
      image, label = self._read(self.train, plan.index, boxes)
      return {
          'image': image,
          'label': label,
          'offset': plan.offset,
          'flip': plan.flip,
          'shift': plan.shift,
          'divisor': plan.divisor,
      }

    types = {
        'image': tf.uint8,
        'label': tf.int32,
        'offset': tf.int32,
        'flip': tf.bool,
        'shift': tf.float32,
        'divisor': tf.float32,
    }
    return self._batches(batch, types, first_step, _ENDLESS)

  def training_examples(self, step: int) -> list[Example]:
    """Which images a training batch is of, those of all processes."""
    size, length = self._config.batch_size, len(self.train)
    examples = []
    for position in range(step * size, (step + 1) * size):
      epoch, place = divmod(position, length)
      index = int(self._order(epoch)[place])
      name = self.train.relative_name(index)
      examples.append(Example(epoch, place, index, name))
    return examples

  def plan(self, first: int, count: int, *, lit: bool = True) -> Plan:
    """Draws what a part of the training stream will show.

    Args:
      first: place of its first example in the stream.
      count: number of examples.
      lit: whether there is PCA lighting, if the config has any.
    """
    config, length = self._config.augmentation, len(self.train)
    positions = np.arange(first, first + count)
    epochs, places = np.divmod(positions, length)
    index = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
      of_epoch = epochs == epoch
      index[of_epoch] = self._order(int(epoch))[places[of_epoch]]
    offset, flip = preprocessing.random_crops(
        self._config.seed,
        positions // config.images_per_crop,
        config.crop_offsets,
        config.flip,
    )
    shift = np.zeros((count, 3), np.float32)
    divisor = np.ones(count, np.float32)
    if lit and config.lighting != 'none':
      shift = preprocessing.lighting_shifts(
          self._config.seed,
          positions,
          kind=config.lighting,
          scale=config.lighting_scale,
          deviations=self.components[0],
          eigenvectors=self.components[1],
      )
      divisor *= config.lighting_divisor
    return Plan(index, offset, flip, shift, divisor)

  def evaluation_batches(
      self, batch_size: int, image_size: int | None = None
  ) -> Iterator[Batch]:
    """One pass over the evaluation set, every example exactly once.

    Args:
      batch_size: images in a batch of all processes.
      image_size: side of the squares, in pixels; None: the config's.

    Yields:
      This process's part of each batch: 'image' [examples, size, size, 3]
      uint8, 'label' [examples] int32 and 'weight' [examples] float32, 0 where
      the last batch is filled up.

    Raises:
      DataError: an image cannot be read; names it.
    """
    size = batch_size // self._processes
    length = len(self.evaluation)

    def batch(step):
      first = step * batch_size + self._process * size
      index = np.arange(first, first + size)
      weight = (index < length).astype(np.float32)
      image, label = self._read(
          self.evaluation, np.minimum(index, length - 1), size=image_size
      )
      return {'image': image, 'label': label, 'weight': weight}

    types = {'image': tf.uint8, 'label': tf.int32, 'weight': tf.float32}
    return self._batches(batch, types, 0, -(-length // batch_size))

  def evaluation_squares(self, indices: Sequence[int]) -> np.ndarray:
    """Some images of the evaluation set, [images, size, size, 3] uint8."""
    return self._read(self.evaluation, np.asarray(indices))[0]

  def sample(self, source: Source, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images from all over a set, at equal distances: always the same.

    Args:
      source: the training or the evaluation set.
      count: number of images; of a set with fewer some come twice.

    Returns:
      [count, size, size, 3] uint8 and [count] int32 labels.
    """
    places = np.linspace(0, len(source) - 1, count)
    return self._read(source, np.round(places).astype(np.int64))

  def _mean_to_subtract(self):
    config = self._config.dataset
    if config.mean == 'image':
      return self.statistics.mean_image
    if config.mean == 'channels':
      means = self.statistics.channel_means
    else:
      means = statistics.IMAGENET_CHANNEL_MEANS
    shape = (self._size, self._size, 3)
    return np.broadcast_to(means, shape).astype(np.float32)

  def _read(self, source, index, boxes=None, size=None):
    """Images [count, size, size, 3] uint8 and labels [count] int32."""
    count = len(index)
    size = boxes[0].size if boxes else size or self._size
    images = _aligned((count, size, size, 3))
    labels = np.empty(count, np.int32)

    def read(start):
      for i in range(start, min(start + _CHUNK, count)):
        number = int(index[i])
        with self._watch.reading(functools.partial(source.describe, number)):
          if boxes:
            images[i], labels[i] = source.image(number, boxes[i])
          else:
            images[i], labels[i] = source.resized(number, size)

    collections.deque(
        self._threads.map(read, range(0, count, _CHUNK)), maxlen=0
    )
    return images, labels

  def _squares(self, source):
    def chunk(step):
      start = step * _CHUNK
      index = np.arange(start, min(start + _CHUNK, len(source)))
      return {'image': self._read(source, index)[0]}

    # As many at once as there are threads, as each is the work of one.
    chunks = self._batches(
        chunk,
        {'image': tf.uint8},
        0,
        -(-len(source) // _CHUNK),
        at_once=threads.cores(),
    )
    for batch in chunks:
      yield from batch['image']

  def _batches(
      self,
      make: Callable[[int], Batch],
      types: dict[str, tf.DType],
      first: int,
      end: int,
      at_once: int = 2,
  ) -> Iterator[Batch]:
    """Yields make(first), ..., make(end - 1), in order, made in advance.

    Args:
      make: makes a batch; its work is done by the threads of this object.
      types: of the batch's arrays.
      first: number of the first batch.
      end: number behind the last one.
      at_once: batches in the making, so that the threads never wait.
    """

    failures: dict[int, Exception] = {}

    def values(number):
      try:
        batch = make(int(number))
      except Exception as error:
        # TensorFlow would log it, at length, and raise a text; the stream
        # raises it as it is, in its turn.
        failures[int(number)] = error
        return [np.zeros(0, kind.as_numpy_dtype) for kind in types.values()]
      return [batch[name] for name in types]

    numbers = range(first, end)
    stream = self._stream(values, failures, types, numbers, at_once)
    _streams.add(stream)
    return stream

  def _stream(self, values, failures, types, numbers, at_once):
    running = True
    # AutoGraph would read source files again while a run goes on.
    plain = tf.autograph.experimental.do_not_convert
    call = lambda number: tf.numpy_function(
        values, [number], list(types.values()), stateful=False
    )
    is_running = lambda _: tf.ensure_shape(
        tf.numpy_function(lambda: running, [], tf.bool), ()
    )
    dataset = tf.data.Dataset.range(numbers.start, numbers.stop)
    dataset = dataset.take_while(plain(is_running))
    dataset = dataset.map(
        plain(call), num_parallel_calls=at_once, deterministic=True
    )
    iterator = dataset.prefetch(2).as_numpy_iterator()
    try:
      for number, arrays in zip(numbers, iterator):
        if number in failures:
          raise failures[number]
        yield dict(zip(types, arrays))
    except tf.errors.OpError as error:
      raise DataError(f'the input pipeline failed: {error}') from error
    finally:
      # When an iterator is deleted TensorFlow waits for calls under way, and
      # these wait for Python's lock, which nobody gets once Python is ending:
      # the process would stay for ever. So no new ones, and the last awaited.
      running = False
      _drain(iterator)


_streams = weakref.WeakSet()


@atexit.register
def _close_streams():
  """Ends what is left open, before Python stops its threads for good."""
  for stream in list(_streams):
    # One whose thread waits for data cannot be closed, nor waited for.
    with contextlib.suppress(ValueError):
      stream.close()


def _drain(iterator):
  while True:
    try:
      next(iterator)
    except StopIteration:
      return
    except tf.errors.OpError:
      pass  # One of the last calls has failed, which nobody asks for any more.


def _aligned(shape):
  """An uninitialized uint8 array that TensorFlow and JAX need not copy."""
  size = math.prod(shape)
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + size].reshape(shape)


def _check(config, processes):
  """Raises DataError for a field that no pipeline can be built from."""
  fields.check(config)
  for field in ('batch_size', 'evaluation_batch_size'):
    if config[field] % processes:
      raise DataError(
          f'{field} is {config[field]}, which {processes} processes cannot '
          f'share equally: set --config.{field} to a multiple'
      )


def _check_size(config, *sources):
  for source in sources:
    if source.size not in (None, config.dataset.size):
      raise DataError(
          f'dataset.size is {config.dataset.size}, but {source.name} has '
          f'squares of {source.size} pixels: set '
          f'--config.dataset.size={source.size} (and augmentation.crop_size), '
          f'or prepare with --size={config.dataset.size}'
      )
