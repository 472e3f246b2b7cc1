"""Trains each layer definition of a folder for two steps, and evaluates it.

  python -m benchmarks.definitions --folder=AlexNet-Source-Code/layers
  python -m benchmarks.definitions --folder=... --only=120,153 --output=table.md

Each definition is a separate run by the users' command, with the defaults of
configs/cuda_convnet.py, including layer statistics and ten views. Only the
batch and the data are small: a few generated images of two classes. A
definition that is refused because it names functions of an earlier run is then
trained without them.

It prints a Markdown table row by row: what ran, and what was refused with which
message. The exit status is 1 if anything ended otherwise, such as in a
traceback, whose end is also printed.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from input_pipeline import cli
from input_pipeline.files import paths

ROOT = pathlib.Path(__file__).parent.parent

# Parameter files of definitions without one of their name: that of the same
# layers.
_PARAMETERS = {
    '126': '126-2012-full', '153-4gpu': '170-4gpu', '141-2009-2010': '141',
    '141-2009-2012': '141',
}
RAN, REFUSED, FAILED = 'runs', 'refused', 'FAILS'
_IGNORE = '--config.ignore_init_functions=True'
# Images per class; two are held out.
_IMAGES = 10
_BATCH = 2
# Far more than any needs on two cores, so that it must be hanging.
_SECONDS = 3600
# Text of a run's announcement.
_NETWORK = r'([\d,]+) parameters, (\d) tower'
_HEAD = '| definition | parameters | result | seconds | with, or why not |'


class Row(NamedTuple):
  """Result of a definition.

  Attributes:
    name: name in its files' names.
    parameters: name of its parameter file.
    outcome: RAN, REFUSED or FAILED.
    seconds: duration of the command.
    note: towers and parameters, or the message.
  """

  name: str
  parameters: str
  outcome: str
  seconds: float
  note: str

  def __str__(self):
    note = self.note.replace('|', '\\|')
    return (
        f'| {self.name} | {self.parameters} | {self.outcome} '
        f'| {self.seconds:.0f} | {note} |'
    )


def outcome(status: int, text: str) -> tuple[str, str]:
  """Interprets the end of a command.

  Args:
    status: its exit status.
    text: its output, including errors.

  Returns:
    (RAN, towers and parameters), (REFUSED, the message) or (FAILED, the last
    line).
  """
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  if 'Traceback (most recent call last)' in text:
    return FAILED, lines[-1]
  if status == 0:
    parameters, towers = re.search(_NETWORK, text).groups()
    return RAN, f'{parameters} parameters, towers: {towers}'
  messages = [line for line in lines if line.startswith('error: ')]
  if status == 1 and messages:
    return REFUSED, messages[-1].removeprefix('error: ')
  return FAILED, f'status {status}: {lines[-1] if lines else "no output"}'


def write_images(folder: pathlib.Path) -> None:
  """Writes noise images of two classes, one brighter than the other."""
  rng = np.random.default_rng(0)
  for label in range(2):
    (folder / f'class{label}').mkdir(parents=True)
    for index in range(_IMAGES):
      pixels = rng.integers(0, 128, (256, 256, 3)) + 120 * label
      image = Image.fromarray(pixels.astype(np.uint8))
      image.save(folder / f'class{label}' / f'{index}.png', compress_level=1)


def run_all(
    folder: pathlib.Path,
    names: Sequence[str],
    work: pathlib.Path,
    overrides: Sequence[str] = (),
) -> Iterator[Row]:
  """Trains definitions one by one.

  Args:
    folder: folder with layers-NAME.cfg and layer-params-NAME.cfg.
    names: names of the definitions.
    work: an empty folder, for images and one workdir at a time.
    overrides: additional flags of main.py.
  """
  write_images(work / 'images')
  for name in names:
    found = name
    if not (folder / f'layer-params-{name}.cfg').exists():
      found = _PARAMETERS.get(name, name)
    row = _run(folder, name, found, work, overrides)
    if row.outcome == REFUSED and _IGNORE in row.note:
      row = _run(folder, name, found, work, (_IGNORE, *overrides))
      row = row._replace(note=f'with {_IGNORE}; {row.note}')
    yield row


def _run(folder, name, parameters, work, overrides):
  start = time.monotonic()
  with tempfile.TemporaryDirectory(dir=work) as workdir:
    command = [
        sys.executable, 'main.py',
        f'--config=configs/cuda_convnet.py:{folder}/layers-{name}.cfg',
        f'--config.layer_params={folder}/layer-params-{parameters}.cfg',
        '--config.dataset.name=folder',
        f'--config.dataset.train_dir={work}/images',
        '--config.duration=2 steps', f'--config.batch_size={_BATCH}',
        f'--config.evaluation_batch_size={_BATCH}', f'--workdir={workdir}/run',
        *overrides,
    ]
    try:
      done = subprocess.run(
          command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
          text=True, errors='replace', timeout=_SECONDS,
          stdin=subprocess.DEVNULL,
      )
      status, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
      status, text = None, (error.stdout or b'').decode(errors='replace')
  result, note = outcome(status, text)
  if result == FAILED:
    print(text[-4000:], file=sys.stderr)
  seconds = time.monotonic() - start
  # Local paths mean nothing to a reader of the table.
  note = note.replace(f'{folder}{os.sep}', '')
  return Row(name, parameters, result, seconds, note)


def summary(rows: Sequence[Row]) -> str:
  """Counts the definitions by outcome."""
  counts = collections.Counter(row.outcome for row in rows)
  without = sum(row.outcome == RAN and _IGNORE in row.note for row in rows)
  return (
      f'{len(rows)} definitions: {counts[RAN]} run ({without} of them with '
      f'{_IGNORE}), {counts[REFUSED]} refused, {counts[FAILED]} failed'
  )


def main(values: flags.FlagValues) -> int:
  """Runs the definitions selected by the flags; returns the exit status."""
  folder = values.folder.resolve()
  names = sorted(
      path.name.removeprefix('layers-').removesuffix('.cfg')
      for path in folder.glob('layers-*.cfg')
  )
  if not names:
    return cli.fail(
        f'{folder} has no layers-NAME.cfg: name the folder of the definitions '
        'in --folder'
    )
  if unknown := sorted({*(values.only or names)} - {*names}):
    return cli.fail(
        f'--only names {", ".join(unknown)}, but {folder} has '
        + ', '.join(names)
    )
  if values.output:  # Fails now rather than after hours.
    values.output.open('a').close()
  lines = [_HEAD, re.sub(r'[^|]+', '---', _HEAD)]
  print(*lines, sep='\n', flush=True)
  rows = []
  with tempfile.TemporaryDirectory(dir=values.work) as work:
    for row in run_all(
        folder, values.only or names, pathlib.Path(work), values.override
    ):
      print(row, flush=True)
      rows.append(row)
  lines += [*map(str, rows), '', summary(rows)]
  print('', lines[-1], sep='\n')
  if values.output:
    values.output.write_text('\n'.join(lines) + '\n')
  return int(any(row.outcome == FAILED for row in rows))


if __name__ == '__main__':
  paths.define('folder', 'Folder of the definitions.')
  flags.DEFINE_list(
      'only', None, 'Names of the definitions to use. Default: all.'
  )
  flags.DEFINE_multi_string(
      'override', [],
      'Flag to pass to main.py, such as --config.mesh.tower=2. Repeat it for '
      'several.'
  )
  paths.define('output', 'Write the table to this file.')
  paths.define('work', 'Folder for temporary files.')
  flags.mark_flag_as_required('folder')
  cli.run(lambda argv: main(flags.FLAGS))
