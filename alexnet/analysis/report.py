"""Writes everything that there is to see of a run into one HTML page.

  python -m alexnet.analysis.report --workdir=RUN

writes RUN/report.html, which needs no other file and no network, and the same
pictures as PNG files in RUN/report/: what was run, curves, results beside the
paper's, the kernels of conv1 (Figure 3), predictions and nearest neighbours
(Figure 4), confusions, statistics of the layers, principal colours. A run that
is under way, or without its data, has a shorter page that says what is missing.

  python -m alexnet.analysis.report --workdir=RUN --workdir=ANOTHER

puts several runs, or a folder of runs such as a sweep's, beside each other,
into the folder that they share.
"""

import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags

from alexnet import cli
from alexnet.analysis import run_flags
from alexnet.errors import ConfigError, UserError
from input_pipeline.errors import DataError

if TYPE_CHECKING:  # Slow to import.
  from alexnet.analysis.history import History
  from alexnet.analysis.page import Block, Section

PAGE, FOLDER = 'report.html', 'report'


class Report:
  """The sections of a page, and files of pictures beside them."""

  def __init__(self):
    """Starts with nothing."""
    self.sections: list[Section] = []
    self.files: dict[str, bytes] = {}

  def add(self, title: str, make: 'Callable[[], list[Block]]') -> None:
    """Adds a section, or why it cannot be made."""
    from alexnet.analysis.page import Missing, Section

    try:
      blocks = make()
    except (UserError, DataError) as error:
      blocks = [Missing(f'This cannot be shown: {error}')]
    self.sections.append(Section(title, blocks))

  def write(self, folder: pathlib.Path, title: str, subtitle: str) -> None:
    """Writes the page and the files of its pictures."""
    from alexnet.analysis import page
    from input_pipeline import atomic

    files = {p.name: p.png for p in page.pictures(self.sections)}
    files |= self.files
    html = page.render(title, subtitle, self.sections, files).encode()
    earlier = _files_of(folder / PAGE)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
      path = folder / FOLDER / f'{name}.png'
      atomic.write(path, lambda f, file=file: f.write(file), folder)
    atomic.write(folder / PAGE, lambda f: f.write(html), folder)
    for name in earlier - files.keys():
      (folder / FOLDER / f'{name}.png').unlink(missing_ok=True)


def _files_of(path):
  """Names of the pictures of a page that is there; other files are not ours."""
  try:
    text = path.read_text(encoding='utf-8')
  except (OSError, UnicodeError):
    return set()
  found = re.search('<meta name="pictures" content="([a-z0-9_ ]*)">', text)
  return set(found[1].split()) if found else set()


def of_one(
    run: 'History',
    overrides: dict[str, Any] | None = None,
    *,
    class_names: dict[str, str] | None = None,
    evaluation_images: int = 50_000,
    training_images: int = 10_000,
) -> Report:
  """The report of one run.

  Args:
    run: from `history.read`.
    overrides: {dotted field: value} of the config: where the data lies now.
    class_names: {class of the data: what it is to be called}.
    evaluation_images: to look at, at most.
    training_images: to search for neighbours, at most.
  """
  from alexnet.analysis import chapters, classes, colours, gallery

  report = Report()
  network = Lazily(run.folder, overrides, class_names)

  def shown(make):
    part = make()
    report.files.update(part.files)
    return part.blocks

  report.add('The run', lambda: chapters.facts(run))
  report.add('Curves', lambda: chapters.curves([run]))
  report.add('Results', lambda: chapters.results(run))
  report.add('Kernels', lambda: colours.kernels([network.kernels(run)]))
  report.add('Predictions', lambda: shown(
      lambda: gallery.predictions(network.network, network.reader(False))
  ))
  report.add('Nearest neighbours', lambda: shown(lambda: gallery.neighbours(
      network.network, network.reader(False), network.reader(True),
      limit=training_images,
  )))
  report.add('Classes', lambda: shown(lambda: classes.classes(
      network.network, network.reader(False), limit=evaluation_images
  )))
  report.add('Layers', lambda: chapters.layers([run]))
  report.add('Colours', lambda: colours.colours(
      network.inputs(), run.config.dataset.pca == 'imagenet'
  ))
  report.add('Config', lambda: chapters.config([run]))
  report.add('Environment', lambda: chapters.environment([run]))
  return report


def of_several(runs: 'Sequence[History]') -> Report:
  """The report of several runs beside each other."""
  from alexnet.analysis import chapters, colours

  report = Report()
  report.add('The runs', lambda: chapters.comparison(runs))
  report.add('Curves', lambda: chapters.curves(runs))
  report.add('Kernels', lambda: colours.kernels(
      [Lazily(run.folder).kernels(run) for run in runs]
  ))
  report.add('Config', lambda: chapters.config(runs))
  report.add('Environment', lambda: chapters.environment(runs))
  return report


class Lazily:
  """The network and the data of a run, opened when they are asked for."""

  def __init__(
      self,
      folder: pathlib.Path,
      overrides: dict[str, Any] | None = None,
      class_names: dict[str, str] | None = None,
  ):
    """Opens nothing yet.

    Args:
      folder: workdir of the run.
      overrides: {dotted field: value} of the config.
      class_names: {class of the data: what it is to be called}.
    """
    self._folder = folder
    self._overrides = overrides or {}
    self._class_names = class_names or {}
    self._network = self._sources = None

  @property
  def network(self):
    """The `trained.TrainedNetwork` of the newest checkpoint."""
    from alexnet import trained

    if self._network is None:
      network = trained.load(self._folder, overrides=self._overrides)
      self._network = run_flags.renamed(network, self._class_names)
    return self._network

  def reader(self, train: bool):
    """A `gallery.Reader` of the training or of the evaluation set.

    Raises:
      DataError: they are not there, or have other classes than the network.
    """
    from alexnet import inputs
    from alexnet.analysis import gallery
    from input_pipeline import datasets

    config = self.network.config
    if self._sources is None:
      sources = datasets.create_sources(config.dataset, config.seed)
      # Not the outputs' names, which may be other ones on the page.
      for one in sources:
        inputs.check_classes(one, self.network.inputs.class_names)
      self._sources = [
          gallery.Reader(one, config.dataset.size) for one in sources
      ]
    return self._sources[0 if train else 1]

  def inputs(self):
    """What the network knows of its training images; None if nothing."""
    from alexnet import checkpoints, inputs

    found = inputs.load(self._folder)
    if found is None and checkpoints.newest_step(self._folder) is not None:
      found = self.network.inputs
    return found

  def kernels(self, run: 'History'):
    """(name, kernels of the first layer or None, towers)."""
    from alexnet.analysis import colours

    towers = run.config.model.towers or 1
    return run.name, colours.load_kernels(self._folder), towers


def _output(folders, runs):
  if flags.FLAGS.output:
    return pathlib.Path(flags.FLAGS.output)
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
  """Entry point of `python -m alexnet.analysis.report`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  from alexnet import compilation, host_memory
  from alexnet.analysis import history

  host_memory.keep_freed()
  compilation.use_cache()
  values = flags.FLAGS
  for name in ('evaluation_images', 'training_images'):
    if values[name].value < 1:
      raise ConfigError(f'--{name} is {values[name].value}: wanted 1 or more')
  folders = [pathlib.Path(folder).expanduser() for folder in values.workdir]
  runs = history.read_all(folders)
  if len(runs) == 1:
    report = of_one(
        runs[0],
        run_flags.moved(),
        class_names=run_flags.class_names(),
        evaluation_images=values.evaluation_images,
        training_images=values.training_images,
    )
    title, subtitle = runs[0].name, f'{runs[0].config.dataset.name}'
  else:
    report = of_several(runs)
    title, subtitle = f'{len(runs)} runs', ', '.join(r.name for r in runs)
  output = _output(folders, runs)
  report.write(output, title, subtitle)
  print(f'wrote {output / PAGE} and the pictures in {output / FOLDER}')


if __name__ == '__main__':
  flags.DEFINE_multi_string(
      'workdir', None,
      'Folder of a run, or of a sweep; repeated, to compare several.',
  )
  flags.DEFINE_string(
      'output', None, 'Folder to write to; unset: the workdir.'
  )
  run_flags.define_class_names()
  run_flags.define_moved()
  flags.DEFINE_integer(
      'evaluation_images', 50_000, 'Evaluation images to predict, at most.'
  )
  flags.DEFINE_integer(
      'training_images', 10_000, 'Training images to search, at most.'
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)
