"""Writes the features of images in a layer of a trained network.

  python -m alexnet.analysis.features --workdir=RUN --layer=fc7 \
      --source=train --output=features/train

The features are those of each image's centre crop, as plain NumPy arrays (see
`store.py`) for `retrieve` and other programs. The source is 'train' or
'evaluation' of the run; the path of a folder of photos or class folders, of an
archive or of prepared data; 'digits'; or 'tfds:NAME'. --output=FILE.npz writes
a single file, and keeps the features in memory until the end.

Unreadable images are reported and left out; the exit status is 1 then.
"""

import sys
import time

from absl import flags

from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.files import paths

# As in store.py and images.py, which are slow to import.
_DTYPES = ('float32', 'float16')
_SETS = ('train', 'evaluation')


def main(argv: list[str]) -> int | None:
  """Entry point of `python -m alexnet.analysis.features`."""
  values = run_flags.start(argv)
  # These import JAX, which --help does not need.
  from alexnet.analysis.features import extract, store
  from alexnet.analysis.features import images as images_lib
  from alexnet.metrics.console import Console, format_duration

  console = Console()
  network = run_flags.load_network()
  run_flags.check_layer(network, values.layer)
  # The run's own sets are named by their source.
  which = values.source if values.source in _SETS else values.set
  images = images_lib.open_images(
      values.source, which, config=network.config, inputs=network.inputs
  )
  output = values.output
  about = {
      'layer': values.layer,
      'workdir': str(values.workdir),
      'step': network.step,
      'parameters': network.fingerprint(),
      'source': values.source,
      'set': which,
      'class_names': images.class_names,
  }
  start = time.perf_counter()
  with store.Writer(output, about, values.dtype) as writer:
    left_out = extract.extract(
        network, images, values.layer, writer, limit=values.limit,
        console=console,
    )
    writer.close()
  seconds = time.perf_counter() - start
  written = store.load(output)
  shape = ' x '.join(map(str, written.features.shape[1:]))
  console.print(
      f'{values.layer} ({shape} {values.dtype}) of {len(written):,} images of '
      f'{images.source.name} in {output}, '
      f'{format_duration(seconds)}, {len(written) / seconds:.0f} img/s'
  )
  if images.source.ignored:
    console.print(f'left out: {images.source.ignored}')
  for line in left_out:
    print(f'left out: {line}', file=sys.stderr)
  return 1 if left_out else None


if __name__ == '__main__':
  run_flags.define()
  flags.DEFINE_string(
      'layer', 'fc7',
      'Layer whose features are written: pool1, pool2, conv3, conv4, pool5, '
      'fc6, fc7 or fc8.'
  )
  flags.DEFINE_string(
      'source',
      None,
      "Images: 'train' or 'evaluation' for those of the run, the path of a "
      "folder, an archive or prepared data, 'digits', or 'tfds:NAME'.",
  )
  flags.DEFINE_enum(
      'set', 'train', _SETS,
      "Set of the source to use; ignored for the run's own images."
  )
  paths.define('output', 'Folder or .npz file to write the features to.')
  flags.DEFINE_enum('dtype', 'float32', _DTYPES, 'Data type of the features.')
  flags.DEFINE_integer(
      'limit',
      None,
      'Use only this many images, the first ones; in class folders these are '
      'images of the first classes.',
      lower_bound=1,
  )
  flags.mark_flags_as_required(['source', 'output'])
  cli.run(main, finishes=True)
