"""Compares our input pipeline with others, on the same images.

  python -m benchmarks.input_pipeline --json=results.json
  python -m benchmarks.input_pipeline --source=PHOTOS
  python -m benchmarks.input_pipeline --only=prepared_raw --processes=0,1,2

Each contestant runs in its own process and delivers batches of 128 augmented
images. They take turns of a few seconds over several rounds, so that noise
affects all. It prints medians of images per second, and of images per second of
CPU time over all of a contestant's processes. Ours are also compared with ours
at the first number of --processes, by the median of the ratios within rounds.

Ours deliver the same as in training: 8-bit crops, and a few numbers for the
arithmetic on the device. The others:

  pytorch_dataloader        folder: DataLoader with two workers, torchvision's
                            ImageFolder and transforms on Pillow's images;
                            resize, crop, flip, float, lighting, mean
  pytorch_dataloader_uint8  the same up to the flip, without arithmetic
  pytorch_dataloader_256    the latter on the prepared JPEG files
  tfrecord                  prepared JPEG files in TFRecords: tf.data's
                            decode_and_crop_jpeg and flip, 8 bits
  grain                     prepared JPEG files in ArrayRecords: grain's
                            DataLoader with two workers, our decoder, 8 bits
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
from absl import app, flags
from PIL import Image

from input_pipeline.files import paths, threads

BATCH = 128
CROP = 224
WORKERS = 2
# More than any contestant prefetches before its turn.
_READY = 12


# --- The images ---


def write_photographs(directory: pathlib.Path, count: int) -> None:
  """Writes JPEG files like ImageNet's: 500 x 375, about 100 kB.

  They are random windows of the two photographs included in scikit-learn.
  """
  from sklearn import datasets

  photographs = [
      Image.fromarray(array) for array in datasets.load_sample_images().images
  ]
  rng = np.random.default_rng(0)
  for label, photograph in enumerate(photographs):
    folder = directory / f'class{label}'
    folder.mkdir(parents=True)
    for index in range(count // len(photographs)):
      width = rng.integers(250, 500)
      height = width * 3 // 4
      left = rng.integers(photograph.width - width + 1)
      top = rng.integers(photograph.height - height + 1)
      window = photograph.resize(
          (500, 375),
          Image.Resampling.BICUBIC,
          box=(left, top, left + width, top + height),
      )
      window.save(folder / f'{index:05d}.jpg', quality=96)


@contextlib.contextmanager
def images_to_read(
    source: str | None, count: int, place: str | None
) -> Iterator[tuple[str, pathlib.Path]]:
  """Yields a folder of images, and a temporary folder with their other forms.

  Args:
    source: the folder; None to generate `count` photographs.
    count: number of photographs.
    place: parent of the temporary folder; None for the system's.
  """
  with tempfile.TemporaryDirectory(dir=place) as directory:
    work = pathlib.Path(directory)
    if source is None:
      source = str(work / 'photographs')
      write_photographs(pathlib.Path(source), count)
    prepare(source, work)
    yield source, work


def prepare(source: str, work: pathlib.Path) -> None:
  """Writes all forms of the images read by contestants."""
  from input_pipeline.prepared import origins
  from input_pipeline.prepared import writer as writer_lib

  train, evaluation = origins.open_origin(source, scratch=work)
  sets = {'train': train, 'evaluation': evaluation}
  for storage in writer_lib.STORAGES:
    quality = writer_lib.DEFAULT_QUALITY if storage == 'jpeg' else None
    work_on = writer_lib.Preparation(
        sets, work / storage, writer_lib.Settings(storage, quality)
    )
    work_on.run()
    work_on.merge()
  _write_peers_files(work)


def _write_peers_files(work):
  from array_record.python import array_record_module

  from input_pipeline.files.tensorflow_cpu import tf
  from input_pipeline.prepared import reader

  train, _ = reader.open_prepared(work / 'jpeg')
  writers = [
      tf.io.TFRecordWriter(str(work / f'{i:02d}.tfrecord')) for i in range(8)
  ]
  array_record = array_record_module.ArrayRecordWriter(
      str(work / 'images.array_record'), 'group_size:1'
  )
  for index in range(len(train)):
    jpeg, label = train.read(index)
    features = {
        'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    writers[index % len(writers)].write(example.SerializeToString())
    array_record.write(label.to_bytes(4, 'little') + jpeg)
    folder = work / 'files' / f'{label:05d}'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{index:08d}.jpg').write_bytes(jpeg)
  for writer in (*writers, array_record):
    writer.close()


# --- Contestants: (folder of the images, work folder) to endless batches ---


def _ours(data, **dataset):
  from configs import alexnet_2012
  from input_pipeline import datasets, pipeline

  config = alexnet_2012.get_config(data)
  config.dataset.update(dataset)
  train, evaluation = datasets.create_sources(config.dataset, 0)
  return pipeline.Pipeline(config, train, evaluation).training_batches(0)


def jpeg_folder(source, work, **fields):
  """Ours, from the folder."""
  return _ours(
      'folder', train_dir=source, statistics_dir=str(work), **fields
  )


def prepared_jpeg(source, work, **fields):
  """Ours, from prepared JPEG files."""
  del source
  return _ours('prepared', dir=str(work / 'jpeg'), **fields)


def prepared_raw(source, work, **fields):
  """Ours, from prepared pixels."""
  del source
  return _ours('prepared', dir=str(work / 'raw'), **fields)


class _Lighting:
  """Colour shift and mean subtraction, as written by torchvision users."""

  def __init__(self, work):
    from input_pipeline.prepared import reader

    train, _ = reader.open_prepared(work / 'jpeg')
    deviations, vectors = train.statistics().principal_components()
    self._components = (vectors * deviations).astype(np.float32)
    mean = train.statistics().mean_image[16:240, 16:240]
    self._mean = np.ascontiguousarray(mean.transpose(2, 0, 1))

  def __call__(self, image):
    import torch

    factors = torch.normal(0.0, 0.1, (3,))
    shift = torch.from_numpy(self._components) @ factors
    image = image.float() - torch.from_numpy(self._mean) + shift[:, None, None]
    return image / 1.1


def _dataloader(folder, resize, after):
  import torch
  from torchvision import datasets, transforms

  # One thread per worker, as set by DataLoader.
  steps = [transforms.RandomCrop(CROP), transforms.RandomHorizontalFlip()]
  if resize:
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [
        transforms.Resize(256, bicubic), transforms.CenterCrop(256), *steps
    ]
  steps = transforms.Compose([*steps, transforms.PILToTensor(), *after])
  data = datasets.ImageFolder(str(folder), steps)
  loader = torch.utils.data.DataLoader(
      data,
      BATCH,
      shuffle=True,
      num_workers=WORKERS,
      drop_last=True,
      persistent_workers=True,
  )
  while True:
    yield from loader


def pytorch_dataloader(source, work):
  """PyTorch's, from the folder, to the network's input."""
  return _dataloader(source, True, [_Lighting(work)])


def pytorch_dataloader_uint8(source, work):
  """PyTorch's, from the folder, without arithmetic."""
  del work
  return _dataloader(source, True, [])


def pytorch_dataloader_256(source, work):
  """PyTorch's, from files of 256 x 256 pixels, without arithmetic."""
  del source
  return _dataloader(work / 'files', False, [])


def tfrecord(source, work):
  """Plain tf.data."""
  del source
  from input_pipeline.files.tensorflow_cpu import tf

  files = sorted(map(str, work.glob('*.tfrecord')))
  features = {
      'image': tf.io.FixedLenFeature([], tf.string),
      'label': tf.io.FixedLenFeature([], tf.int64),
  }

  def example(record):
    parsed = tf.io.parse_single_example(record, features)
    top, left = tf.unstack(tf.random.uniform([2], 0, 33, tf.int32))
    image = tf.image.decode_and_crop_jpeg(
        parsed['image'], tf.stack([top, left, CROP, CROP]), channels=3
    )
    return tf.image.random_flip_left_right(image), parsed['label']

  dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
  dataset = dataset.interleave(
      tf.data.TFRecordDataset,
      cycle_length=4,
      num_parallel_calls=tf.data.AUTOTUNE,
  )
  dataset = dataset.shuffle(2048).repeat().map(example, tf.data.AUTOTUNE)
  return dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def grain(source, work):
  """Grain's DataLoader."""
  del source
  import grain.python as pygrain
  import simplejpeg

  class Example(pygrain.RandomMapTransform):

    def random_map(self, element, rng):
      label = int.from_bytes(element[:4], 'little')
      image = simplejpeg.decode_jpeg(element[4:])
      top, left = rng.integers(0, 33, 2)
      image = image[top : top + CROP, left : left + CROP]
      return (image[:, ::-1] if rng.integers(2) else image), label

  data = pygrain.ArrayRecordDataSource([str(work / 'images.array_record')])
  loader = pygrain.DataLoader(
      data_source=data,
      sampler=pygrain.IndexSampler(
          len(data),
          shard_options=pygrain.NoSharding(),
          shuffle=True,
          num_epochs=None,
          seed=0,
      ),
      operations=[Example(), pygrain.Batch(BATCH, drop_remainder=True)],
      worker_count=WORKERS,
  )
  return iter(loader)


OURS = (jpeg_folder, prepared_jpeg, prepared_raw)
PEERS = (
    pytorch_dataloader,
    pytorch_dataloader_uint8,
    pytorch_dataloader_256,
    tfrecord,
    grain,
)


# --- Measuring ---


def _core_seconds() -> float:
  """User and system time of this process and of its children."""
  me = psutil.Process()
  total = 0.0
  for process in (me, *me.children(recursive=True)):
    times = process.cpu_times()
    total += times.user + times.system
  return total


def _serve(
    make: Callable[..., Iterator[Any]], processes: int, source, work, pipe
):
  """Runs in a contestant's process; measures on request."""
  flags.FLAGS.mark_as_parsed()  # Grain reads its own.
  fields = {'processes': processes} if processes else {}
  batches = make(source, work, **fields)
  next(batches)
  pipe.send('ready')
  while (seconds := pipe.recv()) is not None:
    for _ in itertools.islice(batches, _READY + 2 * processes):
      pass
    images, start, core_start = 0, time.perf_counter(), _core_seconds()
    while time.perf_counter() < start + seconds:
      next(batches)
      images += BATCH
    pipe.send((
        images / (time.perf_counter() - start),
        images / (_core_seconds() - core_start),
    ))
  os._exit(0)  # Some loaders wait long for their workers.


def _name(make, readers):
  return make.__name__ + (f', processes {readers}' if readers else '')


def measure(
    contestants, source: str, work: pathlib.Path, rounds: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
  """Measures {name: [(images per second, images per CPU-second), by round]}.

  Args:
    contestants: (function, reading processes) of each.
    source: folder of the images.
    work: folder of their other forms.
    rounds: turns of each.
    seconds: duration of a turn.
  """
  spawn = multiprocessing.get_context('spawn')
  pipes, processes = {}, []
  for make, readers in contestants:
    pipe, end = spawn.Pipe()
    arguments = (make, readers, source, work, end)
    process = spawn.Process(target=_serve, args=arguments)
    process.start()
    end.close()  # Otherwise a dead process would not be noticed.
    pipes[_name(make, readers)] = pipe
    processes.append(process)
    try:
      pipe.recv()
    except EOFError:
      for other in processes:
        other.kill()
      raise SystemExit(
          f'{make.__name__} has failed, see above; --only=NAME leaves it out'
      ) from None
  results = {name: [] for name in pipes}
  for number in range(rounds):
    for name, pipe in pipes.items():
      pipe.send(seconds)
      results[name].append(pipe.recv())
      print(
          f'round {number + 1}/{rounds}  {name:28s} '
          f'{results[name][-1][0]:8,.0f} img/s',
          flush=True,
      )
  for pipe, process in zip(pipes.values(), processes):
    pipe.send(None)
    process.join()
  return results


def report(results: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
  """Prints and returns a table of medians."""
  medians = {
      name: tuple(statistics.median(column) for column in zip(*rows))
      for name, rows in results.items()
  }
  base = medians.get('pytorch_dataloader')
  cores, rounds = threads.cores(), len(next(iter(results.values())))
  print(
      f'\nmedians of {rounds} rounds, batch {BATCH}, {cores} cores\n\n'
      f'| {"":28s} | img/s | img per core-s | to pytorch_dataloader |\n'
      '|---|---|---|---|'
  )
  for name, (wall, core) in medians.items():
    ratio = f'{wall / base[0]:.2f}x, {core / base[1]:.2f}x' if base else ''
    print(f'| {name:28s} | {wall:,.0f} | {core:,.0f} | {ratio} |')
  return {
      'median_images_per_second': {n: m[0] for n, m in medians.items()},
      'median_images_per_core_second': {n: m[1] for n, m in medians.items()},
  }


def report_ratios(results, counts: list[int]) -> None:
  """Compares ours with ours at the first number of reading processes."""
  for make in OURS:
    first, *others = (results.get(_name(make, count)) for count in counts)
    for count, rows in zip(counts[1:], others):
      if rows:
        # Ratios within a round, so that a slow minute affects both.
        wall, core = (
            statistics.median(a / b for a, b in zip(column, base))
            for column, base in zip(zip(*rows), zip(*first))
        )
        print(
            f'{make.__name__}, processes {count}: {wall:.2f} of the images a '
            f'second, {core:.2f} of those of a core-second, as with {counts[0]}'
        )


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  counts = [int(count) for count in values.processes]
  with images_to_read(values.source, values.images, values.work) as (
      source, work
  ):
    chosen = [
        (make, count)
        for make in (*OURS, *PEERS)
        if not values.only or make.__name__ in values.only
        for count in (counts if make in OURS else [0])
    ]
    results = measure(chosen, source, work, values.rounds, values.seconds)
  medians = report(results)
  report_ratios(results, counts)
  if values.json:
    values.json.write_text(json.dumps(medians, indent=2) + '\n')


if __name__ == '__main__':
  flags.DEFINE_string(
      'source', None,
      'Folder with a folder of images per class. Default: photographs of '
      'scikit-learn.',
  )
  flags.DEFINE_integer(
      'images', 2048, 'Number of photographs to create without --source.'
  )
  flags.DEFINE_integer('rounds', 5, 'Number of turns of each contestant.')
  flags.DEFINE_float('seconds', 4.0, 'Duration of a turn, in seconds.')
  paths.define('work', 'Folder for temporary files.')
  flags.DEFINE_list(
      'processes', ['0'],
      'Numbers of reading processes to measure our pipelines with.'
  )
  flags.DEFINE_multi_string(
      'only', [], 'Contestant to measure. Repeat it for several. Default: all.'
  )
  paths.define('json', 'Write the medians as JSON to this file.')
  app.run(main)
