"""Predicts the classes of photos.

  python -m alexnet.predict --workdir=runs/alexnet photo.jpg folder/ \
      --output=predictions.png

shows the five most probable classes of each image. Folders are searched
recursively and may hold any number of images. Files that cannot be read are
skipped and listed at the end, with exit status 1. A .json or .csv output has
the predictions of all images, a .png a picture of the first ones. After SIGTERM
or Ctrl-C, outputs have the images predicted so far.
"""

import contextlib
import sys
import time

from absl import app, flags

from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from alexnet.runtime import compilation_cache, heap, settings
from alexnet.runtime.gpu import accelerators
from input_pipeline import cli
from input_pipeline.errors import DataError, ImageError, printable
from input_pipeline.files import paths as paths_lib
from input_pipeline.files import streams

# The same as in inference/predictor.py, which imports JAX.
_VIEWS = ('centre', 'ten', 'dense')
_OUTPUTS = ('.png', '.json', '.csv')
# Images of a long list that are shown on the terminal.
SHOWN = 20


def _check(values):
  if values.top < 1:
    raise ConfigError(f'--top is {values.top}: expected at least 1')
  if values.scales is not None and values.views != 'dense':
    raise ConfigError(
        f"--scales is of dense views, but --views is '{values.views}': set "
        '--views=dense'
    )
  outputs = values.output
  for output in outputs:
    if output.suffix.lower() not in _OUTPUTS:
      raise ConfigError(
          f'--output is {output}: expected a name that ends in '
          + ', '.join(_OUTPUTS)
      )
  files = [output.resolve() for output in outputs]
  for output, file in zip(outputs, files):
    if files.count(file) > 1:
      raise ConfigError(
          f'--output is {output} more than once: give each file another name'
      )
  return outputs


def main(argv: list[str]) -> int:
  """Entry point of `python -m alexnet.predict`."""
  if len(argv) < 2:
    raise app.UsageError('no image is named: give files or folders')
  values = flags.FLAGS
  outputs = _check(values)
  settings.fix()
  accelerators.take_memory_as_needed()
  # JAX, which --help does not need.
  from alexnet import models
  from alexnet.inference import (
    fully_convolutional,
    prediction_writers,
    predictions,
  )
  from alexnet.metrics.console import Console

  heap.keep_freed()
  compilation_cache.use_cache()
  console = Console()
  paths, ignored = _find(argv[1:])
  scales = fully_convolutional.parse_scales(values.scales)
  network = run_flags.renamed(run_flags.load_network(), values.class_names)
  if values.views == 'dense':  # Before files are begun.
    fully_convolutional.check_scales(scales, network.config)
    models.everywhere(network.model)
  start = time.perf_counter()
  results = predictions.predictions(
      network, paths, views=values.views, scales=scales, top=values.top
  )
  with cli.noting_signals(), contextlib.ExitStack() as files:
    console.print(
        f'{values.workdir}, step {network.step:,}, '
        f'{len(network.class_names):,} classes'
    )
    writers = [
        files.enter_context(
            prediction_writers.create(
                output,
                network,
                views=values.views,
                top=values.top,
                scales=scales,
            )
        )
        for output in outputs
    ]
    done, broken = _show(results, paths, writers, console)
    seconds = time.perf_counter() - start
    about = [writer.finish() for writer in writers]
  for line in about:
    console.print(line)
  if done > 1:
    console.print(
        f'{done:,} files in {seconds:.1f} s, '
        f'{done / seconds:.1f} a second, compilation included'
    )
  if ignored:
    console.print(f'left out: {ignored}')
  if stop := cli.stopped_by():
    cli.fail(f'stopped by {stop.name} after {done:,} of {len(paths):,} files')
  return _report(broken, done)


def _find(arguments):
  """Finds the images named by the arguments, and files that are left out."""
  from alexnet.inference import image_files
  from input_pipeline.sources import EXTENSIONS

  paths, ignored = image_files.find(arguments)
  if not paths:
    raise DataError(
        f'no image ({", ".join(EXTENSIONS)}) in '
        f'{", ".join(map(printable, arguments))}'
        f'{f"; left out: {ignored}" if ignored else ""}'
    )
  return paths, ignored


def _show(results, paths, writers, console) -> tuple[int, list[ImageError]]:
  """Shows the first predictions and writes all; returns (count, errors)."""
  from alexnet.inference.predictions import to_text

  if len(paths) > SHOWN:
    results = streams.progress(results, 'predicting', len(paths))
  broken, first, done = [], [], 0
  for result in results:
    done += 1
    for writer in writers:
      writer.add(result)
    if isinstance(result, ImageError):
      broken.append(result)
    elif len(paths) <= SHOWN:
      console.print(to_text(result, sys.stdout.encoding))
    elif len(first) < SHOWN:
      first.append(to_text(result, sys.stdout.encoding))
    if cli.stopped_by():
      break
  for text in first:  # After the progress bar has ended.
    console.print(text)
  if first and (rest := done - len(broken) - len(first)):
    console.print(
        f'... and {rest:,} more, all of them in a file: '
        '--output=predictions.csv'
        if not writers
        else f'... and {rest:,} more'
    )
  return done, broken


def _report(broken, count) -> int:
  if not broken:
    return 0
  sys.stdout.flush()
  print(
      f'\n{len(broken):,} of {count:,} files could not be used:',
      file=sys.stderr,
  )
  for error in broken:
    print(f'  {printable(error.name)}: {error.reason}', file=sys.stderr)
  return 1


if __name__ == '__main__':
  run_flags.define()
  run_flags.define_class_names()
  flags.DEFINE_enum(
      'views', 'centre', _VIEWS,
      'Predict from the centre crop, ten views, or all positions of the whole '
      'image.'
  )
  flags.DEFINE_list(
      'scales', None,
      'Lengths of the shorter side for dense views, in pixels, such as 256,384.'
  )
  paths_lib.define_several(
      'output', [],
      'Write the predictions to this .png, .json or .csv file. Repeat it for '
      'several files.'
  )
  flags.DEFINE_integer('top', 5, 'Number of classes to show for each image.')
  cli.run(main, finishes=True)
