"""What a trained network says of photos.

  python -m alexnet.analysis.predict --workdir=runs/alexnet photo.jpg folder/ \
      --output=predictions.png

shows the five most probable classes of each image. Folders are searched with
the folders in them; any number of images may be in them. Files that cannot be
read are left out, named at the end, and make the exit status 1. An output that
ends in .json or .csv has the predictions of all images, a .png a picture of the
first ones.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags

from alexnet import cli, compilation, host_memory
from alexnet.analysis import run_flags
from alexnet.errors import ConfigError
from input_pipeline.errors import DataError, ImageError, printable

if TYPE_CHECKING:  # They import JAX.
  from alexnet.dense import Map
  from alexnet.trained import TrainedNetwork

# As in trained.py.
_VIEWS = ('centre', 'ten', 'dense')
_OUTPUTS = ('.png', '.json', '.csv')
# Images of a long list that are shown on the terminal.
SHOWN = 20
_BAR = 24  # Characters of a probability of 1.
_EIGHTHS = ' ▏▎▍▌▋▊▉█'


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a network says of one file.

  Attributes:
    path: of the file.
    classes: (label, name, probability) of the most probable classes.
    maps: of dense views, where they are wanted.
  """

  path: pathlib.Path
  classes: tuple[tuple[int, str, float], ...]
  maps: 'Sequence[Map]' = ()


def predictions(
    network: 'TrainedNetwork',
    paths: Sequence[pathlib.Path],
    *,
    views: str,
    scales: Sequence[int] | None = None,
    top: int = 5,
) -> Iterator[Prediction | ImageError]:
  """Predicts the classes of files, or says why one cannot be used.

  Args:
    network: the network.
    paths: of the files.
    views: see `TrainedNetwork.predict`.
    scales: likewise.
    top: number of classes to name.
  """
  from alexnet import dense

  if views == 'dense':
    results = dense.stream(network, paths, scales)
  else:
    results = network.stream(paths, views=views)
  for path, result in zip(paths, results):
    if isinstance(result, ImageError):
      yield result
      continue
    maps = result if views == 'dense' else ()
    probabilities = dense.mean(result) if maps else result
    order = np.argsort(-probabilities, kind='stable')[:top]
    classes = tuple(
        (int(i), network.class_names[i], float(probabilities[i]))
        for i in order
    )
    yield Prediction(path, classes, maps)


def to_text(prediction: Prediction, encoding: str | None = 'utf-8') -> str:
  """Lines for a terminal: the file, then a class a line with a bar."""
  lines = [printable(str(prediction.path))]
  names = [printable(name) for _, name, _ in prediction.classes]
  width = max(map(len, names))
  for name, (_, _, probability) in zip(names, prediction.classes):
    bar = _bar(probability, encoding)
    lines.append(f'  {name:{width}}  {probability:7.2%}  {bar}'.rstrip())
  return '\n'.join(lines)


def _bar(probability, encoding):
  eighths = round(probability * _BAR * 8)
  bar = '█' * (eighths // 8) + _EIGHTHS[eighths % 8]
  try:
    bar.encode(encoding or 'ascii')
  except UnicodeError:
    return '#' * round(probability * _BAR)
  return bar


def _check(values):
  if values.top < 1:
    raise ConfigError(f'--top is {values.top}: wanted at least 1')
  if values.scales is not None and values.views != 'dense':
    raise ConfigError(
        f"--scales is of dense views, but --views is '{values.views}': set "
        '--views=dense'
    )
  outputs = [pathlib.Path(name).expanduser() for name in values.output]
  for output in outputs:
    if output.suffix.lower() not in _OUTPUTS:
      raise ConfigError(
          f'--output is {output}: wanted a name that ends in '
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
  """Entry point of `python -m alexnet.analysis.predict`."""
  if len(argv) < 2:
    raise app.UsageError('no image is named: give files or folders')
  values = flags.FLAGS
  outputs = _check(values)
  # JAX, which --help does not need.
  from alexnet import dense, metrics, models, photos
  from alexnet.analysis import prediction_files

  host_memory.keep_freed()
  compilation.use_cache()
  console = metrics.Console()
  paths, ignored = photos.find(argv[1:])
  if not paths:
    raise DataError(
        f'no image (.jpg, .jpeg, .png) in {", ".join(map(printable, argv[1:]))}'
    )
  scales = dense.parse_scales(values.scales)
  names = run_flags.class_names()
  network = run_flags.renamed(run_flags.load_network(), names)
  if values.views == 'dense':  # Before files are begun.
    dense.check_scales(scales, network.config)
    models.everywhere(network.model)
  console.print(
      f'{values.workdir}, step {network.step:,}, '
      f'{len(network.class_names):,} classes'
  )
  start = time.perf_counter()
  results = predictions(
      network, paths, views=values.views, scales=scales, top=values.top
  )
  with contextlib.ExitStack() as files:
    writers = [
        files.enter_context(
            prediction_files.create(
                output,
                network,
                views=values.views,
                top=values.top,
                scales=scales,
            )
        )
        for output in outputs
    ]
    broken = _show(results, paths, writers, console)
    seconds = time.perf_counter() - start
    about = [writer.finish() for writer in writers]
  for line in about:
    console.print(line)
  if len(paths) > 1:
    console.print(
        f'{len(paths):,} files in {seconds:.1f} s, '
        f'{len(paths) / seconds:.1f} a second, compilation included'
    )
  if ignored:
    kinds = ', '.join(f'{n:,} {kind}' for kind, n in ignored.most_common(5))
    console.print(f'left out, as they are not .jpg, .jpeg or .png: {kinds}')
  return _report(broken, len(paths))


def _show(results, paths, writers, console) -> list[ImageError]:
  """Shows the first predictions, writes all, returns the errors."""
  from input_pipeline.statistics import progress_bar

  if len(paths) > SHOWN:
    results = progress_bar(results, 'predicting', len(paths))
  broken, first = [], []
  for result in results:
    for writer in writers:
      writer.add(result)
    if isinstance(result, ImageError):
      broken.append(result)
    elif len(paths) <= SHOWN:
      console.print(to_text(result, sys.stdout.encoding))
    elif len(first) < SHOWN:
      first.append(to_text(result, sys.stdout.encoding))
  for text in first:  # The bar is in the way before.
    console.print(text)
  if rest := len(paths) - len(broken) - SHOWN if first else 0:
    console.print(
        f'... and {rest:,} more, all of them in a file: '
        '--output=predictions.csv'
        if not writers
        else f'... and {rest:,} more'
    )
  return broken


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
      'The centre crop, ten views, or all places of the whole image.'
  )
  flags.DEFINE_list(
      'scales', None,
      'Of dense views: sizes of the shorter side, in pixels, such as 256,384.'
  )
  flags.DEFINE_multi_string(
      'output', [], 'File to write, .png, .json or .csv; may be repeated.'
  )
  flags.DEFINE_integer('top', 5, 'Number of classes to name.')
  cli.run(main)
