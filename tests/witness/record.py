"""Records what the program computes today, for `witness_test.py` to compare.

  python -m tests.witness.record

writes next to this file, for each recipe, the workdir of a narrow run of two
steps on the digits, and for both a few batches and `results.json`: the losses
of 20 further steps on these batches, an evaluation and a prediction. Run it
again only when an operation is meant to compute something else.
"""

import hashlib
import io
import json
import pathlib
import platform
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from alexnet.evaluation import session
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.runtime import sharding
from alexnet.training import setup, trainer
from alexnet.training.steps import Steps
from tests import testing

FOLDER = pathlib.Path(__file__).parent
BATCHES = FOLDER / 'batches.npz'
RESULTS = FOLDER / 'results.json'
MESHES = ((1, 1), (2, 2))
STEPS = 20
_BATCH, _SIZE, _CROP = 8, 128, 112


def config_of(recipe: str):
  """A narrow network on small squares, so that a checkpoint is small."""
  config = testing.narrow_config(recipe=testing.RECIPES[recipe])
  config.dataset.size = _SIZE
  config.augmentation.crop_size = _CROP
  config.augmentation.crop_offsets = _SIZE - _CROP + 1
  config.batch_size = _BATCH
  config.evaluation_batch_size = 48
  config.duration = '2 steps'
  config.log_every = '1 step'
  config.ten_views = False
  config.schedule.name = 'constant'
  config.schedule.learning_rate = 0.01
  return config


def images() -> np.ndarray:
  """Pictures that compress well: [4, batch, crop, crop, 3] uint8."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 200, (4, _BATCH, _CROP // 16, _CROP // 16, 3))
  blocks = coarse.repeat(16, axis=2).repeat(16, axis=3)
  rows, columns = np.mgrid[:_CROP, :_CROP]
  return (blocks + (3 * rows + 5 * columns)[..., None] % 53).astype(np.uint8)


def make_batches() -> dict[str, np.ndarray]:
  """Four training batches, as the pipeline makes them, along a first axis."""
  rng = np.random.default_rng(1)
  shape = (4, _BATCH)
  return {
      'image': images(),
      'label': rng.integers(0, 10, shape).astype(np.int32),
      'offset': rng.integers(0, 17, (*shape, 2)).astype(np.int32),
      'flip': rng.integers(0, 2, shape).astype(bool),
      'shift': rng.normal(0, 10, (*shape, 3)).astype(np.float32),
      'divisor': np.full(shape, 1.5, np.float32),
  }


def batches() -> Iterator[dict[str, np.ndarray]]:
  """The recorded batches, over and over."""
  with np.load(BATCHES) as file:
    arrays = dict(file)
  for step in range(STEPS):
    yield {name: array[step % 4] for name, array in arrays.items()}


def losses(recipe: str, mesh: tuple[int, int]) -> list[float]:
  """The losses of the steps that follow the checkpoint."""
  workdir = FOLDER / recipe
  overrides = {'mesh.data': mesh[0], 'mesh.tower': mesh[1]}
  config = loading.config_of_run(workdir, overrides)
  console = Console(io.StringIO())
  run = setup.create(config, workdir, console, training=False)
  steps = Steps(run)

  def loss(batch):
    started = steps.start(sharding.put_batch(batch, run.task.mesh))
    return steps.finish(started)[0]['loss']

  return [loss(batch) for batch in batches()]


def evaluation(recipe: str) -> dict[str, float]:
  """The checkpoint's result on the digits."""
  console = Console(io.StringIO())
  return session.open_run(FOLDER / recipe, console).evaluate('centre')


def prediction(recipe: str) -> list[list[float]]:
  """What the checkpoint says of the first recorded images."""
  with np.load(BATCHES) as file:
    some = list(file['image'][0, :2])
  return loading.load(FOLDER / recipe).predict(some, views='ten').tolist()


def machine() -> dict[str, Any]:
  """What the last bits of these numbers depend on, besides the program."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  flags = [line.split(':')[1].split() for line in lines if 'flags' in line]
  instructions = ' '.join(sorted(flags[0])) if flags else ''
  return {
      'jax': jax.__version__,
      'processor': platform.machine(),
      'cores': len(flags),
      'instructions': hashlib.sha256(instructions.encode()).hexdigest(),
  }


def main() -> None:
  """Writes the witness."""
  np.savez_compressed(BATCHES, **make_batches())
  results = {'machine': machine()}
  for recipe in testing.RECIPES:
    workdir = FOLDER / recipe
    shutil.rmtree(workdir, ignore_errors=True)
    trainer.train_and_evaluate(config_of(recipe), str(workdir))
    # Nothing reads them, and they name this machine.
    shutil.rmtree(workdir / 'tensorboard')
    (workdir / 'environment.json').unlink()
    (workdir / 'job.lock').unlink()
    results[recipe] = {
        'losses': {
            f'{data}x{tower}': losses(recipe, (data, tower))
            for data, tower in MESHES
        },
        'evaluation': evaluation(recipe),
        'prediction': prediction(recipe),
    }
  RESULTS.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
