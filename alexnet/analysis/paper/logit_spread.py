"""Spread of the logits of untrained networks, for a sweep's variants.

  python -m alexnet.analysis.paper.logit_spread \
      --config=configs/sweeps/paper_vs_code.py:folder \
      --set=dataset.train_dir=PHOTOS --seeds=3

If the logits are the same for all images, a network learns nothing from their
differences until its weights have grown: the "flat loss" at the beginning of
training. The spread is the standard deviation of a logit over images, as the
root mean square over logits.
"""

from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import flags

from alexnet.analysis.tables import Table, mean_and_deviation
from alexnet.config.errors import ConfigError
from alexnet.config.sweep import Sweep, parse_settings
from alexnet.inference import run_flags
from alexnet.metrics.console import Console
from input_pipeline import cli, datasets


def spread(logits: np.ndarray) -> float:
  """Computes the spread of logits [images, classes]."""
  return float(np.sqrt(np.var(logits, axis=0, dtype=np.float64).mean()))


def initial_logits(
    config: ml_collections.ConfigDict, seeds: Sequence[int], images: int
) -> list[np.ndarray]:
  """Computes the logits of untrained networks for evaluation images.

  Args:
    config: the whole config.
    seeds: seeds of the initialization.
    images: largest number of images, which are evenly spaced in the set.

  Returns:
    [images, classes] float32 for each seed of the initialization.
  """
  # These take seconds that --help does not need.
  import jax

  from alexnet import models
  from alexnet.inference import views
  from alexnet.runtime import mesh
  from input_pipeline.pipeline import Pipeline

  mesh.devices()  # Checks that JAX can start.
  config = config.copy_and_resolve_references()
  models.check(config)
  train, evaluation = datasets.create_sources(config.dataset, config.seed)
  if config.model.num_classes is None:
    config.model.num_classes = len(train.class_names)
  pipeline = Pipeline(config, train, evaluation)
  images = min(images, len(evaluation))
  squares = pipeline.evaluation_squares(
      np.linspace(0, len(evaluation) - 1, images).astype(int)
  )
  inputs = views.Views(
      pipeline.mean_image,
      config.augmentation.mean_crop,
      mirror=config.augmentation.flip,
      crop=config.augmentation.crop_size,
  )
  x = inputs.centre({'image': squares})[:, 0]
  model = models.create_model(config.model)
  init = jax.jit(lambda key: model.init(key, x[:1]))
  apply = jax.jit(model.apply)
  return [np.asarray(apply(init(jax.random.key(s)), x)) for s in seeds]


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.paper.logit_spread`."""
  values = run_flags.start(argv)
  if values.images < 2 or values.seeds < 1:
    raise ConfigError(
        f'--images is {values.images} and --seeds is {values.seeds}: expected '
        'at least 2 images and 1 seed'
    )
  console = Console()
  sweep = Sweep(values.config, parse_settings(values['set'].value))
  rows = []
  with console.bar('variants', len(sweep.variants), 'variant') as bar:
    for index, variant in enumerate(sweep.variants):
      config = sweep.config(index)
      seeds = range(config.seed, config.seed + values.seeds)
      of_seeds = [*map(spread, initial_logits(config, seeds, values.images))]
      text = mean_and_deviation(of_seeds, '.3g')
      rows.append((variant.name, str(len(of_seeds)), text))
      bar.update()
  console.print(f'\n{values.images} images of {config.dataset.name}\n')
  table = Table(('', 'n', 'spread of the logits'), tuple(rows))
  console.print('\n'.join(table.to_markdown()))


if __name__ == '__main__':
  flags.DEFINE_string('config', None, 'File of the sweep, FILE[:DATASET].')
  flags.DEFINE_multi_string(
      'set', [],
      'Set a field in all variants: field=value. Repeat it for several fields.'
  )
  flags.DEFINE_integer('seeds', 1, 'Number of networks of each variant.')
  flags.DEFINE_integer('images', 64, 'Number of evaluation images.')
  flags.mark_flag_as_required('config')
  cli.run(main)
