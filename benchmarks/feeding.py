"""Compares training from prepared data with training on a constant batch.

  python -m benchmarks.feeding --source=PHOTOS --json=results.json

One process with one compiled step of run #145's network. It makes steps in
turns: with a constant batch on the device, from prepared JPEG files, and from
prepared pixels. It prints the median seconds per step and their ratios.
"""

import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags

from alexnet.inference import views
from alexnet.models import create_model
from alexnet.runtime import compilation_cache, heap, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.training import optimizer, train_step
from benchmarks import input_pipeline
from configs import alexnet_2012
from input_pipeline import datasets
from input_pipeline.files import paths
from input_pipeline.pipeline import Pipeline

# More batches than are prefetched or in progress before a turn.
_READY = 8


def _batches(config, mesh, directory) -> tuple[Pipeline, Iterator[Any]]:
  config.dataset.dir = str(directory)
  train, evaluation = datasets.create_sources(config.dataset, config.seed)
  pipeline = Pipeline(config, train, evaluation)
  batches = sharding.put_ahead(pipeline.training_batches(0), mesh)
  return pipeline, batches


def _step(config, mesh, pipeline):
  """Function from a batch to the state after a completed step."""
  inputs = views.Views(
      pipeline.mean_image,
      config.augmentation.mean_crop,
      mirror=True,
      crop=config.augmentation.crop_size,
  )
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  create = lambda key: train_step.create_state(model, rule, key)
  shapes = jax.eval_shape(create, jax.random.key(0))
  step = train_step.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=shapes,
      images=inputs.training,
      seed=0,
  )
  state = sharding.initialize(create, mesh, 0)
  # So low that the network, and so its speed, does not change.
  rates = jax.tree.map(lambda _: np.float32(1e-12), shapes.params)

  def make(batch):
    nonlocal state
    state, metrics = step(state, batch, rates)
    jax.block_until_ready(metrics)
    return state

  return make


def measure(
    work: pathlib.Path,
    batch_size: int,
    rounds: int,
    steps: int,
    seconds_a_turn: float,
    **model: Any,
) -> dict[str, list[float]]:
  """Measures {source of the batches: [seconds per step, by round]}.

  Args:
    work: folder with the prepared data, `jpeg` and `raw`.
    batch_size: images in a step.
    rounds: turns of each source.
    steps: least number of steps in a turn.
    seconds_a_turn: least duration of a turn.
    **model: overrides of run #145's `config.model`.
  """
  # As main.py does.
  heap.keep_freed()
  compilation_cache.use_cache()
  config = alexnet_2012.get_config('prepared')
  config.batch_size = batch_size
  config.model.update(num_classes=1000, **model)
  mesh = mesh_lib.create_mesh(config)
  pipeline, from_jpeg = _batches(config, mesh, work / 'jpeg')
  _, from_raw = _batches(config, mesh, work / 'raw')
  step = _step(config, mesh, pipeline)
  sources = {
      'constant': itertools.repeat(next(from_jpeg)),
      'prepared_jpeg': from_jpeg,
      'prepared_raw': from_raw,
  }
  seconds = {name: [] for name in sources}
  for number in range(-1, rounds):  # The first round compiles.
    for name, batches in sources.items():
      # Skips batches that were prefetched during the other turns.
      for _ in range(_READY):
        batch = next(batches)
      start, count = time.perf_counter(), 0
      while count < steps or time.perf_counter() < start + seconds_a_turn:
        state = step(batch)
        batch = next(batches)
        count += 1
      jax.block_until_ready(state)
      if number >= 0:
        taken = (time.perf_counter() - start) / count
        seconds[name].append(taken)
        print(
            f'round {number + 1}/{rounds}  {name:15s} {taken:.3f} s a step',
            flush=True,
        )
  return seconds


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  with input_pipeline.images_to_read(
      values.source, values.images, values.work
  ) as (_, work):
    seconds = measure(
        work,
        values.batch_size,
        values.rounds,
        values.steps,
        values.seconds,
    )
  medians = {name: statistics.median(row) for name, row in seconds.items()}
  print()
  for name, median in medians.items():
    # Ratios within a round, so that a slow minute affects both.
    ratio = statistics.median(
        one / other for one, other in zip(seconds[name], seconds['constant'])
    )
    print(f'{name:15s} {median:.3f} s a step, {ratio:.3f} of constant')
  if values.json:
    results = {'median_seconds_per_step': medians}
    values.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  flags.DEFINE_string(
      'source', None,
      'Folder with a folder of images per class. Default: photographs of '
      'scikit-learn.',
  )
  flags.DEFINE_integer('images', 1024, 'Number of these photographs.')
  flags.DEFINE_integer('batch_size', 128, 'Number of images in a step.')
  flags.DEFINE_integer('rounds', 7, 'Number of turns of each source.')
  flags.DEFINE_integer('steps', 2, 'Least number of steps in a turn.')
  flags.DEFINE_float('seconds', 10.0, 'Least duration of a turn, in seconds.')
  paths.define('work', 'Folder for temporary files.')
  paths.define('json', 'Write the medians as JSON to this file.')
  app.run(main)
