"""Builds the report page of one or several runs."""

import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from alexnet.analysis.features import images
from alexnet.analysis.report import classes, colours, examples, page, sections
from alexnet.analysis.report.page import Block, Missing, Section
from alexnet.analysis.report.run_history import History
from alexnet.checkpointing import input_spec, manager
from alexnet.inference import loading, run_flags
from alexnet.inference.predictor import TrainedNetwork
from input_pipeline.errors import UserError
from input_pipeline.files import atomic

PAGE, FOLDER = 'report.html', 'report'


class Report:
  """The sections of a page and its picture files."""

  def __init__(self):
    """Creates an empty report."""
    self.sections: list[Section] = []
    self.files: dict[str, bytes] = {}

  def add(
      self, title: str, make: Callable[[], list[Block] | examples.Shown]
  ) -> None:
    """Adds a section, or the reason why it cannot be created."""
    try:
      blocks = make()
      if isinstance(blocks, examples.Shown):
        self.files |= blocks.files
        blocks = blocks.blocks
    except UserError as error:
      blocks = [Missing(f'This cannot be shown: {error}')]
    self.sections.append(Section(title, blocks))

  def write(self, folder: pathlib.Path, title: str, subtitle: str) -> None:
    """Writes the page and the files of its pictures."""
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
  """Names of an existing page's picture files, which may be replaced."""
  try:
    text = path.read_text(encoding='utf-8')
  except (OSError, UnicodeError):
    return set()
  found = re.search('<meta name="pictures" content="([a-z0-9_ ]*)">', text)
  return set(found[1].split()) if found else set()


def of_one(
    run: History,
    overrides: dict[str, Any] | None = None,
    *,
    class_names: str | None = None,
    evaluation_images: int = 50_000,
    training_images: int = 10_000,
) -> Report:
  """Builds the report of one run.

  Args:
    run: history from `run_history.read`.
    overrides: {dotted field: value} of the config, for data that has moved.
    class_names: file with names of the classes, see
      `run_flags.read_class_names`.
    evaluation_images: most evaluation images to use.
    training_images: most training images to search for neighbours.
  """
  report = Report()
  of = Lazily(run.folder, overrides, class_names)
  report.add('The run', lambda: sections.facts(run))
  report.add('Curves', lambda: sections.curves([run]))
  report.add('Results', lambda: sections.results(run))
  report.add('Kernels', lambda: colours.kernels([of.kernels(run)]))
  report.add('Predictions', lambda: examples.predictions(
      of.network, of.reader(False)
  ))
  report.add('Nearest neighbours', lambda: examples.neighbours(
      of.network, of.reader(False), of.reader(True), limit=training_images
  ))
  report.add('Classes', lambda: classes.classes(
      of.network, of.reader(False), limit=evaluation_images
  ))
  report.add('Layers', lambda: sections.layers(run))
  report.add('Colours', lambda: colours.colours(
      of.inputs(), run.config.dataset.pca == 'imagenet'
  ))
  report.add('Config', lambda: sections.config([run]))
  report.add('Environment', lambda: sections.environment([run]))
  return report


def of_several(runs: Sequence[History]) -> Report:
  """Builds a report that compares several runs."""
  report = Report()
  report.add('The runs', lambda: sections.comparison(runs))
  report.add('Curves', lambda: sections.curves(runs))
  report.add('Kernels', lambda: colours.kernels(
      [Lazily(run.folder).kernels(run) for run in runs]
  ))
  report.add('Config', lambda: sections.config(runs))
  report.add('Environment', lambda: sections.environment(runs))
  return report


class Lazily:
  """The network and the data of a run, opened on first use."""

  def __init__(
      self,
      folder: pathlib.Path,
      overrides: dict[str, Any] | None = None,
      class_names: str | None = None,
  ):
    """Takes the arguments of `of_one`; opens nothing yet."""
    self._folder = folder
    self._overrides, self._class_names = overrides or {}, class_names

  @functools.cached_property
  def network(self) -> TrainedNetwork:
    """The network of the newest checkpoint."""
    network = loading.load(self._folder, overrides=self._overrides)
    return run_flags.renamed(network, self._class_names)

  @functools.cached_property
  def _sets(self):
    config, inputs = self.network.config, self.network.inputs
    return images.open_sets('train', config=config, inputs=inputs)

  def reader(self, train: bool) -> images.Images:
    """Opens the images of the training or the evaluation set.

    Raises:
      DataError: they are missing, or have other classes than the network.
    """
    return self._sets['train' if train else 'evaluation']

  def inputs(self):
    """Returns the contents of inputs.npz, or None."""
    found = input_spec.load(self._folder)
    if found is None and manager.newest_step(self._folder) is not None:
      found = self.network.inputs
    return found

  def kernels(self, run: History):
    """Returns (name, kernels of the first layer or None, towers)."""
    towers = run.config.model.towers or 1
    return run.name, colours.load_kernels(self._folder), towers
