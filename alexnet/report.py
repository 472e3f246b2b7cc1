"""Writes a report of a run: a single HTML page.

  python -m alexnet.report --workdir=RUN

writes RUN/report.html, which needs no other file and no network, and the same
pictures as PNG files in RUN/report/: what was run, curves, results beside the
paper's, the kernels of conv1 (Figure 3), predictions and nearest neighbours
(Figure 4), confusions, statistics of the layers, principal colours. For a run
in progress, or without its data, the page is shorter and lists what is missing.

  python -m alexnet.report --workdir=RUN --workdir=ANOTHER

compares several runs, or a folder of runs such as a sweep's, and writes to
their common parent folder.
"""

import os
import pathlib

from absl import flags

from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.files import paths


def _output(folders, runs):
  if flags.FLAGS.output:
    return flags.FLAGS.output
  if len(runs) == 1:
    return runs[0].folder
  if len(folders) == 1:
    return folders[0]
  common = pathlib.Path(os.path.commonpath([run.folder for run in runs]))
  if common == common.parent:
    raise ConfigError(
        'these runs share no folder to write to: set --output to one'
    )
  return common


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.report`."""
  values = run_flags.start(argv)
  # JAX and matplotlib, which --help does not need.
  from alexnet.analysis.report import build, run_history

  for name in ('evaluation_images', 'training_images'):
    if values[name].value < 1:
      raise ConfigError(f'--{name} is {values[name].value}: expected 1 or more')
  folders = values.workdir
  runs = run_history.read_all(folders)
  if len(runs) == 1:
    report = build.of_one(
        runs[0],
        run_flags.moved(),
        class_names=values.class_names,
        evaluation_images=values.evaluation_images,
        training_images=values.training_images,
    )
    title, subtitle = runs[0].name, f'{runs[0].config.dataset.name}'
  else:
    report = build.of_several(runs)
    title, subtitle = f'{len(runs)} runs', ', '.join(r.name for r in runs)
  output = _output(folders, runs)
  report.write(output, title, subtitle)
  print(
      f'wrote {output / build.PAGE} and the pictures in '
      f'{output / build.FOLDER}'
  )


if __name__ == '__main__':
  paths.define_several(
      'workdir', None,
      'Folder of a run or of a sweep. Repeat it to compare several.',
  )
  paths.define('output', 'Folder to write to. Default: the workdir.')
  run_flags.define_class_names()
  run_flags.define_moved()
  flags.DEFINE_integer(
      'evaluation_images', 50_000,
      'Largest number of evaluation images to predict.'
  )
  flags.DEFINE_integer(
      'training_images', 10_000, 'Largest number of training images to search.'
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main, finishes=True)
