"""Linear probes: logistic regression on the features of each layer.

  python -m alexnet.analysis.linear_probe --workdir=RUN --source=PHOTOS

It trains a probe on each layer's features of images with new classes, with the
network's weights fixed. For comparison it also uses the pixels, and a randomly
initialized network. Each seed draws other images and another random network.

The source is as in `alexnet.analysis.features`. The probe is tested on its
evaluation set if it has one, else on images that were not drawn for training.
Maps of more than --largest numbers are averaged over a grid of cells, so that
layers have similar sizes. Unreadable files are left out and listed at the end;
the exit status is 1 then.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from alexnet.analysis.tables import Table, mean_and_deviation, show
from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.files import paths

if TYPE_CHECKING:
  import numpy as np

  from alexnet.analysis.features.images import Images
  from alexnet.analysis.features.logistic_regression import Result
  from alexnet.inference.predictor import TrainedNetwork
  from alexnet.metrics.console import Console

# As in layer_features.py, which imports JAX.
PIXELS = 'pixels'
# Input of a probe: (kind of weights, layer).
Key = tuple[str, str]
_TRAINED, _RANDOM = 'trained', 'random weights'


def draw(
    sets: dict[str, 'Images'], train: int, test: int, seed: int
) -> tuple[tuple['Images', 'np.ndarray'], tuple['Images', 'np.ndarray']]:
  """Draws (images, [count] indices) for training and testing.

  Draws fewer if there are not enough images. Without an evaluation set, at most
  a fifth of the images is for testing.
  """
  import numpy as np

  rng = np.random.default_rng(seed)
  first = sets['train']
  order = rng.permutation(len(first))
  if (second := sets.get('evaluation')) is not None:
    chosen = rng.permutation(len(second))[:test]
    return (first, order[:train]), (second, chosen)
  test = min(test, len(first) // 5)
  return (first, order[test : test + train]), (first, order[:test])


def measure(
    network: 'TrainedNetwork',
    sets: dict[str, 'Images'],
    layers: Sequence[str],
    *,
    train: int,
    test: int,
    seeds: int,
    largest: int,
    console: 'Console',
    left_out: dict[str, str] | None = None,
) -> dict[Key, list['Result']]:
  """Trains all probes with all seeds.

  Args:
    network: see `alexnet.load`.
    sets: images with classes, see `images.open_sets`.
    layers: names from `network.layers`, and 'pixels'.
    train: number of images to train a probe on.
    test: number of images to test it on.
    seeds: number of repetitions, with seeds 0, 1, ...
    largest: see `layer_features.average_cells`.
    console: console for the progress.
    left_out: see `Layers.features`.

  Returns:
    {(kind of weights, layer): results by seed}; pixels count as trained.
  """
  from alexnet.analysis.features import layer_features, logistic_regression

  results: dict[Key, list[Result]] = {}
  batch = min(network.config.evaluation_batch_size, train)
  reader = layer_features.Layers(network, layers, largest, batch)
  with console.bar('probes', 2 * seeds * len(layers), 'probe') as bar:
    for seed in range(seeds):
      parts = draw(sets, train, test, seed)
      for kind in (_TRAINED, _RANDOM):
        variables = network.variables
        if kind == _RANDOM:
          variables = layer_features.initial(network, seed)
        (x, labels), (test_x, test_labels) = (
            reader.features(variables, *part, left_out) for part in parts
        )
        for name in layers:
          bar.update()
          if name == PIXELS and kind == _RANDOM:
            continue  # Pixels do not depend on weights.
          result = logistic_regression.fit(
              x.pop(name), labels, test_x.pop(name), test_labels, seed=seed
          )
          results.setdefault((kind, name), []).append(result)
          console.print(
              f'seed {seed}: {name}, {kind}: {result.accuracy:.2%} (strength '
              f'{result.strength:g}, {result.dimensions:,} numbers)'
          )
  return results


def table(results: dict[Key, list['Result']], layers: Sequence[str]) -> Table:
  """Table of accuracies: mean ± standard deviation over seeds, in percent."""
  rows = []
  for name in layers:
    first = results[_TRAINED, name]
    of = lambda kind, name=name: [
        100 * r.accuracy for r in results.get((kind, name), ())
    ]
    rows.append((
        name, f'{first[0].dimensions:,}', str(len(first)),
        *(mean_and_deviation(of(k), '.2f', '') for k in (_TRAINED, _RANDOM)),
    ))
  return Table(
      ('layer', 'numbers', 'n', 'trained network', 'random weights'),
      tuple(rows),
  )


def _open(values, network):
  """Opens the layers and the images selected by the flags."""
  from alexnet.analysis.features import images
  from alexnet.analysis.features.logistic_regression import ProbeError

  known = [PIXELS, *network.layers]
  layers = [*dict.fromkeys(values.layers or known)]  # Without duplicates.
  if unknown := [name for name in layers if name not in known]:
    raise ConfigError(
        f"--layers has '{unknown[0]}': expected some of {', '.join(known)}"
    )
  sets = images.open_sets(
      values.source, config=network.config, inputs=network.inputs
  )
  if len(sets['train'].class_names) < 2:
    raise ProbeError(
        f'{sets["train"].source.name} has no class folders: a probe needs '
        'images of two or more classes'
    )
  return layers, sets


def main(argv: list[str]) -> int | None:
  """Entry point of `python -m alexnet.analysis.linear_probe`."""
  values = run_flags.start(argv)
  from alexnet.metrics.console import Console

  network = run_flags.load_network()
  layers, sets = _open(values, network)
  left_out: dict[str, str] = {}
  results = measure(
      network, sets, layers, train=values.train_images, test=values.test_images,
      seeds=values.seeds, largest=values.largest, console=Console(),
      left_out=left_out,
  )
  count = [len(part) for _, part in draw(
      sets, values.train_images, values.test_images, 0)]
  source = sets['train']
  title = (
      f'Accuracy (%) on {len(source.class_names)} classes of '
      f'{source.source.name}'
  )
  about = (
      f'{count[0]:,} images to train a probe, {count[1]:,} to test it, other '
      f'ones with each of {values.seeds} seeds; mean ± standard deviation. The '
      f'network is that of step {network.step:,} of {values.workdir}.'
      + (f' {len(left_out):,} of the images could not be read and were left '
         'out.' if left_out else '')
  )
  print()
  show([(title, [about, table(results, layers)])], values.output)
  for line in left_out.values():
    print(f'left out: {line}', file=sys.stderr)
  return 1 if left_out else None


if __name__ == '__main__':
  run_flags.define()
  flags.DEFINE_string(
      'source', None,
      'Images with classes, named as in alexnet.analysis.features.'
  )
  flags.DEFINE_list(
      'layers', None,
      "Layers of the network, and 'pixels', to train probes on. Default: all."
  )
  flags.DEFINE_integer('seeds', 3, 'Number of repetitions.', lower_bound=1)
  flags.DEFINE_integer(
      'train_images', 2000, 'Number of images to train a probe on.',
      lower_bound=10,
  )
  flags.DEFINE_integer(
      'test_images', 1000, 'Number of images to test a probe on.',
      lower_bound=1,
  )
  flags.DEFINE_integer(
      'largest', 10_000,
      'Average the maps of a layer until it has at most this many numbers.',
      lower_bound=1,
  )
  paths.define('output', 'Write the table as Markdown to this file.')
  flags.mark_flag_as_required('source')
  cli.run(main, finishes=True)
