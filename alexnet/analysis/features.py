"""Writes what a layer of a trained network makes of images.

  python -m alexnet.analysis.features --workdir=RUN --layer=fc7 \
      --source=train --output=features/train

of the centre crop of each image, for `retrieve.py` and for any other program:
plain NumPy arrays, see `feature_sets.py`. The source is 'train' or 'evaluation'
of the run, the path of a folder of photos or class folders, of an archive or of
prepared data, 'digits' or 'tfds:NAME'. With --output=FILE.npz everything is in
one file, and in memory until then.

Images that cannot be read are told of and left out; the exit status is 1 then.
"""

import functools
import itertools
import pathlib
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from alexnet import cli, compilation, host_memory
from alexnet.analysis import run_flags

if TYPE_CHECKING:
  from alexnet.analysis.feature_sets import Writer
  from alexnet.analysis.images import Images
  from alexnet.metrics import Console
  from alexnet.trained import TrainedNetwork

# As in feature_sets.py and images.py, which import more than --help needs.
_DTYPES = ('float32', 'float16')
_SETS = ('train', 'evaluation')


def extract(
    network: 'TrainedNetwork',
    images: 'Images',
    layer: str,
    writer: 'Writer',
    *,
    limit: int | None = None,
    console: 'Console | None' = None,
) -> list[str]:
  """Writes a layer's features of images, in memory that does not grow.

  Args:
    network: see `trained.load`.
    images: see `images.open_images`.
    layer: one of `network.layers`.
    writer: takes them; is not closed.
    limit: images to read, the first ones; None: all.
    console: where to show progress.

  Returns:
    What is to be said of each image that was left out.

  Raises:
    ConfigError: no such layer.
    DataError: the images cannot be read at all.
  """
  import numpy as np

  from input_pipeline.errors import ImageError

  count = len(images) if limit is None else min(limit, len(images))
  labels, left_out, start = {}, [], time.perf_counter()

  def pixels(index):
    square, labels[index] = images.read(index)
    return square

  batch = min(count, network.config.evaluation_batch_size)
  readers = (functools.partial(pixels, index) for index in range(count))
  results = enumerate(network.stream(readers, layer=layer, batch_size=batch))
  while part := [*itertools.islice(results, batch)]:
    left_out += [str(row) for _, row in part if isinstance(row, ImageError)]
    good = [(i, row) for i, row in part if not isinstance(row, ImageError)]
    if good:
      indices, rows = zip(*good)
      writer.add(
          np.stack(rows),
          np.array([labels.pop(index) for index in indices]),
          np.array(indices),
          [images.source.relative_name(index) for index in indices],
      )
    done = part[-1][0] + 1
    if console:
      rate = done / (time.perf_counter() - start)
      console.progress(
          f'{layer} of {done:,} of {count:,} images, {rate:.0f} img/s',
          transient=True,
      )
  return left_out


def main(argv: list[str]) -> int | None:
  """Entry point of `python -m alexnet.analysis.features`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  # JAX, which --help does not need.
  from alexnet import metrics
  from alexnet.analysis import feature_sets
  from alexnet.analysis import images as images_lib

  host_memory.keep_freed()
  compilation.use_cache()
  values, console = flags.FLAGS, metrics.Console()
  network = run_flags.load_network()
  run_flags.check_layer(network, values.layer)
  # A run's own sets have their name as their source.
  which = values.source if values.source in _SETS else values.set
  images = images_lib.open_images(
      values.source,
      which,
      config=network.config,
      aspect=network.inputs.aspect,
      class_names=network.inputs.class_names,
  )
  output = pathlib.Path(values.output)
  about = {
      'layer': values.layer,
      'workdir': values.workdir,
      'step': network.step,
      'parameters': network.fingerprint(),
      'source': values.source,
      'set': which,
      'class_names': images.class_names,
  }
  start = time.perf_counter()
  with feature_sets.Writer(output, about, values.dtype) as writer:
    left_out = extract(
        network, images, values.layer, writer, limit=values.limit,
        console=console,
    )
    writer.close()
  seconds = time.perf_counter() - start
  written = feature_sets.load(output)
  shape = ' x '.join(map(str, written.features.shape[1:]))
  console.print(
      f'{values.layer} ({shape} {values.dtype}) of {len(written):,} images of '
      f'{images.source.name} in {output}, '
      f'{metrics.format_duration(seconds)}, {len(written) / seconds:.0f} img/s'
  )
  for line in left_out:
    print(f'left out: {line}', file=sys.stderr)
  return 1 if left_out else None


if __name__ == '__main__':
  run_flags.define()
  flags.DEFINE_string(
      'layer', 'fc7', 'pool1, pool2, conv3, conv4, pool5, fc6, fc7 or fc8.'
  )
  flags.DEFINE_string(
      'source',
      None,
      "'train' or 'evaluation' of the run, a folder, an archive, prepared "
      "data, 'digits' or 'tfds:NAME'.",
  )
  flags.DEFINE_enum(
      'set', 'train', _SETS, 'Of a source other than the run that has two sets.'
  )
  flags.DEFINE_string(
      'output', None, 'Folder to write, or file that ends in .npz.'
  )
  flags.DEFINE_enum('dtype', 'float32', _DTYPES, 'To write the features in.')
  flags.DEFINE_integer(
      'limit',
      None,
      'The first images only: of class folders, the first classes.',
      lower_bound=1,
  )
  flags.mark_flags_as_required(['source', 'output'])
  cli.run(main)
