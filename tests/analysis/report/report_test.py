"""Reports: pages of runs in any state, and the numbers and pictures on them."""

import base64
import html.parser
import io
import json
import pathlib
import re
import shutil
import tempfile
import urllib.parse
from unittest import mock
from xml.etree import ElementTree

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sklearn_metrics

from alexnet.analysis import tables
from alexnet.analysis.features import images as images_lib
from alexnet.analysis.report import (
  build,
  classes,
  colours,
  confusion,
  examples,
  page,
  run_history,
  sections,
)
from alexnet.checkpointing import input_spec, workdir
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.evaluation import session
from alexnet.inference import run_flags
from alexnet.metrics.console import Console
from alexnet.training import trainer
from alexnet.visualization import charts, filters
from alexnet.visualization import images as visualization_images
from configs import cuda_convnet as cuda_convnet_recipe
from input_pipeline import sources
from input_pipeline.errors import DataError, ImageError
from tests import commands, testing, tiny, tiny_run

_SECTIONS = [
    'The run', 'Curves', 'Results', 'Kernels', 'Predictions',
    'Nearest neighbours', 'Classes', 'Layers', 'Colours', 'Config',
    'Environment',
]
# Elements that have no end.
_VOID = {'meta', 'link', 'img', 'source', 'br', 'hr', 'input'}


class Parser(html.parser.HTMLParser):
  """Checks that elements are closed, and collects what they refer to."""

  def __init__(self, text):
    super().__init__()
    self.open, self.addresses, self.titles, self.words = [], [], [], []
    self.feed(text)
    self.close()
    if self.open:
      raise AssertionError(f'not closed: {self.open}')

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      if name in ('src', 'href', 'srcset', 'data', 'action', 'poster'):
        self.addresses.append(value)
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      raise AssertionError(f'</{tag}> closes nothing, at {self.getpos()}')

  def handle_data(self, data):
    self.words.append(data)
    if self.open and self.open[-1] == 'h2':
      self.titles.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.words).split())


def decoded(address):
  """(type, bytes) of a data URL."""
  kind, content = re.fullmatch(
      r'data:([\w/+]*)(?:;base64)?,(.*)', address, re.DOTALL
  ).groups()
  return kind, base64.b64decode(content)


class PageTestCase(parameterized.TestCase):

  def read(self, path):
    """Checks a page and returns it parsed."""
    text = path.read_text()
    parsed = Parser(text)
    for address in parsed.addresses:
      self.assertRegex(address, '^(data:|#)')
      if address.startswith('data:image'):
        self.check_picture(*decoded(address))
    self.assertNotRegex(text, r'url\(|@import|<script')
    links = [a[1:] for a in parsed.addresses if a.startswith('#')]
    for link in links:
      self.assertIn(f'id="{link}"', text)
    return parsed

  def check_picture(self, kind, content):
    if kind == 'image/svg+xml':
      root = ElementTree.fromstring(content)
      self.assertEqual(root.tag, '{http://www.w3.org/2000/svg}svg')
      for element in root.iter():
        for name, value in element.attrib.items():
          if name.endswith('href'):
            self.assertTrue(value.startswith(('#', 'data:')), value)
        # A picture of the page's own cannot load anything.
        for target in re.findall(r'url\((.*?)\)', str(element.attrib)):
          self.assertTrue(target.startswith('#'), target)
    else:
      with Image.open(io.BytesIO(content)) as image:
        image.load()
        self.assertGreater(min(image.size), 8)


class RunTest(PageTestCase):
  """A finished run of two evaluations."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(
        cls.directory / 'images', classes=3, per_class=9
    )
    config = tiny.get_config()
    config.dataset.train_dir = str(cls.images)
    config.dataset.eval_fraction = 0.34
    config.layer_statistics_images = 4
    config.dataset.size, config.augmentation.crop_size = 76, 72
    config.augmentation.crop_offsets = 5
    config.ten_views = False
    cls.folder = cls.directory / 'run'
    console = Console(io.StringIO())
    cls.run_of_it = trainer.create(config, cls.folder, console)
    cls.results = cls.run_of_it.train()
    cls.report = build.of_one(run_history.read(cls.folder))
    cls.report.write(cls.folder, 'run', 'a test')

  def blocks(self, title, kind=object):
    (section,) = (s for s in self.report.sections if s.title == title)
    return [block for block in section.blocks if isinstance(block, kind)]

  def test_page(self):
    parsed = self.read(self.folder / 'report.html')
    self.assertEqual(parsed.titles, _SECTIONS)
    self.assertNotIn('cannot be shown', parsed.text)
    for words in (
        f'{100 * (1 - self.results["centre"]["top1"]):.2f} %',
        'folder (3 classes) in batches of 8',
        'all 18 training images', 'all 9 evaluation', 'class0',
        'schedule.learning_rate',
    ):
      self.assertIn(words, parsed.text)

  def test_files(self):
    names = {path.stem for path in (self.folder / 'report').glob('*.png')}
    self.assertContainsSubset(
        {
            'loss', 'error', 'learning_rate', 'speed', 'filters', 'predictions',
            'neighbours', 'confusion', 'per_class', 'layers_zeros',
            'layers_kernel_gradient', 'layers_kernel_update', 'colours',
        },
        names,
    )
    for path in (self.folder / 'report').iterdir():
      self.check_picture('image/png', path.read_bytes())

  def test_predictions_by_the_run_itself(self):
    (cards,) = self.blocks('Predictions', page.Cards)
    opened = session.open_run(self.folder, Console(io.StringIO()))
    said = opened.predict('centre')
    places = examples.places(8, 9)
    names = ('class0', 'class1', 'class2')
    self.assertLen(cards.cards, 8)
    for card, place in zip(cards.cards, places):
      probabilities = np.exp(said.log_probabilities[place])
      order = np.argsort(-probabilities)
      self.assertEqual([b[0] for b in card.bars], [names[i] for i in order])
      np.testing.assert_allclose(
          [b[1] for b in card.bars], probabilities[order], atol=1e-5
      )
      label = said.labels[place]
      self.assertEqual(card.tile.text, names[label])
      self.assertEqual(
          [b[0] for b in card.bars if b[2]], [names[label]]
      )

  def test_neighbours_by_numpy(self):
    (strips,) = self.blocks('Nearest neighbours', page.Strips)
    self.assertLen(strips.strips, 5)
    opened = build.Lazily(self.folder, {})
    readers = [opened.reader(train) for train in (True, False)]
    features = [
        opened.network.features(
            [r.square(i) for i in range(len(r.source))], 'fc7'
        ).astype(np.float64)
        for r in readers
    ]
    names = opened.network.class_names
    for place, (text, tiles) in zip(examples.places(5, 9), strips.strips):
      apart = np.sqrt(((features[0] - features[1][place]) ** 2).sum(1))
      nearest = np.argsort(apart)[:6]
      labels = readers[0].labels[nearest]
      label = readers[1].labels[place]
      self.assertEqual([t.text for t in tiles[1:]], [names[i] for i in labels])
      self.assertEqual(
          [t.mark for t in tiles[1:]],
          ['right' if i == label else 'wrong' for i in labels],
      )
      self.assertIn(f'{(labels == label).sum()} of 6', text)
      numbers = [float(x) for x in text.split('distances ')[1].split(' to ')]
      np.testing.assert_allclose(numbers, apart[nearest[[0, -1]]], rtol=0.01)

  def test_an_unfinished_run_without_its_data(self):
    """Copied elsewhere, and its images gone: what there is, and why."""
    folder = self.directory / 'copy'
    shutil.copytree(self.folder, folder)
    (folder / 'results.json').unlink()
    (folder / 'environment.json').unlink()
    # Its charts would be those that test_page reads.
    empty = {
        'svg': b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        'png': sources.encode_png(np.zeros((9, 9), np.uint8)),
    }
    self.enter_context(mock.patch.object(
        charts, '_render', lambda draw, theme, size, form: empty[form]
    ))
    one = build.of_one(
        run_history.read(folder), {'dataset.train_dir': str(folder / 'gone')}
    )
    one.write(folder, 'copy', '')
    parsed = self.read(folder / 'report.html')
    self.assertEqual(parsed.titles, _SECTIONS)
    self.assertIn('This run is not finished', parsed.text)
    self.assertIn('gone is not a folder', parsed.text)
    self.assertIn('There is no environment.json', parsed.text)
    self.assertIn('Components 1, 2 and 3', parsed.text)  # inputs.npz has it.
    self.assertIn('8 kernels of 11 x 11', parsed.text)

  def test_several(self):
    other = self.directory / 'runs' / 'other'
    shutil.copytree(self.folder, other)
    values = json.loads((other / 'config.json').read_text())
    values['schedule']['learning_rate'] = 0.25
    (other / 'config.json').write_text(json.dumps(values))
    runs = run_history.read_all([self.folder, self.directory / 'runs'])
    self.assertEqual([run.name for run in runs], ['run', 'other'])
    build.of_several(runs).write(self.directory, '2 runs', 'run, other')
    parsed = self.read(self.directory / 'report.html')
    self.assertEqual(
        parsed.titles, ['The runs', 'Curves', 'Kernels', 'Config',
                        'Environment']
    )
    self.assertIn('schedule.learning_rate 0.0005 0.25', parsed.text)
    svg = [
        ElementTree.fromstring(decoded(a)[1])
        for a in parsed.addresses if a.startswith('data:image/svg')
    ]
    words = ' '.join(''.join(svg[0].itertext()).split())
    for label in ('run, training', 'other, evaluation'):
      self.assertIn(label, words)


class OldRunTest(PageTestCase):
  """Of nothing but a config, and of records with their older names."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    config = testing.narrow_config('digits')
    config.model.num_classes = 10
    workdir.save_config(self.folder, config)

  def test_just_begun(self):
    one = build.of_one(run_history.read(self.folder))
    one.write(self.folder, 'begun', '')
    parsed = self.read(self.folder / 'report.html')
    self.assertEqual(parsed.titles, _SECTIONS)
    for words in ('no line yet', 'no checkpoint yet', 'no layer statistics',
                  'no result yet'):
      self.assertIn(words, parsed.text)
    self.assertFalse((self.folder / 'checkpoints').exists())

  def test_older_records(self):
    (self.folder / 'metrics.jsonl').write_text(
        '{"kind": "train", "step": 4, "epoch": 0.5, "loss": 1.5, "top1": 0.25, '
        '"learning_rate": 0.1, "images_per_second": null}\n'
        '{"kind": "eval", "step": 8, "views": "centre", "loss": 2.0, '
        '"top1": 0.5, "top5": 0.75, "count": 4}\n{"kind": "tra'
    )
    run = run_history.read(self.folder)
    # Half an epoch in 4 steps.
    self.assertEqual(run.points('eval_centre', 'loss'), [(1.0, 2.0)])
    self.assertEqual(run.points('train', 'images_per_second'), [])
    self.assertEqual(run.last('eval_centre')['top5'], 0.75)
    self.assertIsNone(run.images_per_second)
    self.assertIn(
        ('top-1 error, centre crop', '50.00 %'), sections.facts(run)[0].items
    )

  def test_no_run(self):
    with self.assertRaisesRegex(CheckpointError, 'is not the workdir'):
      run_history.read_all([pathlib.Path(self.create_tempdir('empty'))])
    with self.assertRaisesRegex(CheckpointError, 'is not a folder'):
      run_history.read_all([self.folder / 'nothing'])

  def test_command(self):
    """As a user types it, for a run and for none."""
    run = lambda folder: commands.run(
        '-m', 'alexnet.report', '--workdir', folder
    )
    result = run(self.folder)
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertIn(f'wrote {self.folder}/report.html', result.stdout)
    self.read(self.folder / 'report.html')
    result = run(self.folder / 'nothing')
    self.assertEqual(result.returncode, 1)
    self.assertNotIn('Traceback', result.stderr)
    self.assertIn('nothing is not a folder: set --workdir', result.stderr)

  def test_class_names(self):
    file = self.folder / 'names.txt'
    classes = 'n01440764', 'n02102040'
    file.write_text('n01440764 tench, Tinca tinca\n\nn02102040 a dog')
    self.assertEqual(
        run_flags.read_class_names(str(file), classes),
        {'n01440764': 'tench', 'n02102040': 'a dog'},
    )
    file.write_text('\nn01440764\n')
    with self.assertRaisesRegex(
        ConfigError, "names.txt, line 2, has a class without .*'n01440764': exp"
    ):
      run_flags.read_class_names(str(file), classes)

  def test_names_tell_runs_apart(self):
    folders = [self.folder / name for name in ('a/run', 'b/run')]
    for folder in folders:
      folder.mkdir(parents=True)
      shutil.copy(self.folder / 'config.json', folder)
    runs = run_history.read_all([*folders, folders[0]])
    self.assertEqual([run.name for run in runs], ['a/run', 'b/run'])


class OtherClassesTest(absltest.TestCase):
  """Images whose labels are not what the network's outputs are."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.directory / 'images', 3, 2)
    cls.workdir = cls.directory / 'run'
    cls.network = tiny_run.write(cls.workdir, cls.images, classes=3)
    cls.renamed = cls.directory / 'renamed'
    for name, other in (('class0', 'class2'), ('class1', 'class1'),
                        ('class2', 'class0 \x1b')):
      shutil.copytree(cls.images / name, cls.renamed / other)

  def test_report(self):
    """The names that a user gives classes are not those of the data."""
    names = self.directory / 'names.txt'
    names.write_text('class0 cat\n')
    opened = build.Lazily(self.workdir, {}, names)
    self.assertNotEmpty(opened.reader(True).labels)
    self.assertEqual(opened.network.class_names, ('cat', 'class1', 'class2'))
    moved = {'dataset.train_dir': str(self.renamed)}
    message = (
        r"renamed has other classes .*: 'class0 \\x1b', not 'class0', as "
        r'number 0 \(of 3 and 3\)'
    )
    for train_set in (True, False):
      with self.assertRaisesRegex(DataError, message):
        build.Lazily(self.workdir, moved, names).reader(train_set)

  def test_own_images_of_a_run(self):
    config = self.network.config.copy_and_resolve_references()
    inputs = self.network.inputs
    names = inputs.class_names
    opened = images_lib.open_sets('train', config=config, inputs=inputs)
    self.assertEqual(opened['train'].class_names, names)
    config.dataset.train_dir = str(self.renamed)
    with self.assertRaisesRegex(DataError, "not 'class0', as number 0"):
      images_lib.open_sets('evaluation', config=config, inputs=inputs)
    # Any others may have any classes.
    images_lib.open_sets(str(self.renamed), config=config, inputs=inputs)

  def test_fewer_and_more(self):
    source = ManySource()
    names = [f'class {i}' for i in range(990)]
    with self.assertRaisesRegex(
        DataError, "'class 990', not none, as number 990, .* and 5 more "
        r'\(of 1000 and 990\)',
    ):
      input_spec.check_classes(source, names)
    input_spec.check_classes(source, ManySource.class_names)


class WhatWasDoneTest(absltest.TestCase):
  """Sentences that are made from the config."""

  def text(self, *configs):
    folders = []
    for number, config in enumerate(configs):
      folder = pathlib.Path(self.create_tempdir().full_path) / f'run{number}'
      folder.mkdir()
      workdir.save_config(folder, config)
      (folder / 'metrics.jsonl').write_text(
          '{"kind": "train", "step": 1, "epoch": 1, "loss": 1, "top1": 0}\n'
      )
      folders.append(folder)
    return sections.curves(run_history.read_all(folders))[0]

  def test_training(self):
    folder = testing.narrow_config('folder')
    digits = testing.narrow_config('digits')
    with digits.ignore_type():
      digits.model.fc6.dropout = digits.model.fc7.dropout = 0.0
      digits.augmentation.crop_offsets = 1
    self.assertIn(
        'training images (cropped at random, mirrored at random, with PCA '
        'lighting, with dropout). ', self.text(folder),
    )
    self.assertIn('images (cropped in the centre). ', self.text(digits))
    self.assertIn(
        'lighting, with dropout; run1: cropped in the centre). ',
        self.text(folder, digits),
    )
    both = self.text(digits, digits)
    self.assertIn('images (cropped in the centre). ', both)

  def test_dropout_of_a_definition(self):
    config = cuda_convnet_recipe.get_config()
    config.augmentation.lighting = 'none'
    config.model.layers_text = '[hs1]\ntype=hs\nkeep=0.5\n'
    self.assertIn('at random, with dropout).', self.text(config))
    config.model.layers_text = '[fc]\ntype=fc\n'
    self.assertNotIn('dropout', self.text(config))

  def test_towers(self):
    weights = np.random.default_rng(0).standard_normal((5, 5, 3, 8))
    one, two = ('one', weights, 1), ('two', weights, 2)
    self.assertNotIn('tower', colours.kernels([one])[0])
    self.assertEndsWith(
        colours.kernels([two])[0], 'The upper half is the first tower.'
    )
    self.assertIn('half of two towers', colours.kernels([one, two])[0])
    (pictures_of_one,) = (
        b for b in colours.kernels([one]) if isinstance(b, page.Figures)
    )
    self.assertNotIn('tower below', pictures_of_one.pictures[0].alt)


class FiltersTest(absltest.TestCase):

  def test_colourfulness_by_hand(self):
    rng = np.random.default_rng(0)
    grey = rng.standard_normal((11, 11, 1, 1)).repeat(3, axis=2)
    # Red against green: its mean over the colours is 0 everywhere.
    coloured = np.zeros((11, 11, 3, 1))
    coloured[:, :, 0], coloured[:, :, 1] = 2.0, -2.0
    # (3, 0, 0): of 9, the mean's (1, 1, 1) is 3, so 2 / 3 is chroma.
    red = np.zeros((11, 11, 3, 1))
    red[0, 0, 0] = 3.0
    kernels = np.concatenate([grey, grey, coloured, red], axis=-1)
    first, second = filters.colourfulness(kernels, 2)
    self.assertAlmostEqual(first.share, 0.0, places=12)
    np.testing.assert_allclose(second.kernels, [1.0, 2 / 3])
    # Squares: 121 * 8 and 9, of which 121 * 8 and 6.
    self.assertAlmostEqual(second.share, (968 + 6) / (968 + 9))
    (both,) = filters.colourfulness(kernels, 1)
    self.assertLess(both.share, second.share)
    nothing = filters.colourfulness(np.zeros((5, 5, 3, 4)), 2)
    self.assertEqual([one.share for one in nothing], [0.0, 0.0])

  def test_noise_is_two_thirds(self):
    kernels = np.random.default_rng(1).standard_normal((11, 11, 3, 96))
    for tower in filters.colourfulness(kernels, 2):
      self.assertAlmostEqual(tower.share, 2 / 3, delta=0.01)

  def test_picture(self):
    """96 kernels: two towers of three rows of 16, 1 apart, 5 between them."""
    kernels = np.zeros((11, 11, 3, 96), np.float32)
    kernels[0, 0, 0, 0], kernels[0, 1, 1, 0] = 0.5, -0.25  # The first, at 0, 0.
    kernels[10, 10, :, 95] = -7  # The last one's last pixel.
    image = filters.picture(kernels, 2, scale=2)
    self.assertEqual(image.shape, (2 * (2 * 35 + 5), 2 * 191, 4))
    self.assertEqual(image[0, 0].tolist(), [255, 128, 128, 255])
    self.assertEqual(image[1, 3].tolist(), [128, 64, 128, 255])
    self.assertEqual(image[-1, -1].tolist(), [0, 0, 0, 255])
    # Nothing is drawn beside a kernel and between the towers.
    self.assertEqual(image[0, 2 * 11].tolist(), [255, 255, 255, 0])
    self.assertTrue((image[2 * 35 : 2 * 40, :, 3] == 0).all())

  def test_first_layer(self):
    shapes = {
        'fc8': {'kernel': np.zeros((9, 3)), 'bias': np.zeros(3)},
        'conv2': {'kernel': np.zeros((5, 5, 8, 4))},
        'a1': {'kernel': np.zeros((3, 3, 3, 8)), 'bias': np.zeros(8)},
    }
    self.assertEqual(filters.first_layer(shapes), ('a1', 'kernel'))
    self.assertIsNone(filters.first_kernels({'fc8': shapes['fc8']}))
    blocks = {'a': {'norm': {'scale': np.zeros(3)}}, 'b': {'c': shapes['a1']}}
    self.assertEqual(filters.first_layer(blocks), ('b', 'c', 'kernel'))
    self.assertEqual(filters.first_kernels(blocks).shape, (3, 3, 3, 8))


class ConfusionTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(4)
    self.labels = rng.integers(0, 5, 200)
    self.labels[self.labels == 3] = 2  # A class without images.
    self.guesses = np.where(
        rng.random(200) < 0.5, self.labels, rng.integers(0, 6, 200)
    )
    self.table = confusion.count(self.labels, self.guesses, 6)

  def test_by_sklearn(self):
    counts = sklearn_metrics.confusion_matrix(
        self.labels, self.guesses, labels=range(6)
    )
    np.testing.assert_array_equal(self.table.counts, counts)
    recall = sklearn_metrics.recall_score(
        self.labels, self.guesses, labels=[0, 1, 2, 4], average=None,
    )
    np.testing.assert_allclose(self.table.accuracies[[0, 1, 2, 4]], recall)
    self.assertTrue(np.isnan(self.table.accuracies[[3, 5]]).all())

  def test_worst_pairs_by_hand(self):
    labels = np.array([0] * 4 + [1] * 10 + [2])
    guesses = np.array([0, 1, 1, 2] + [1] * 7 + [0] * 3 + [2])
    confidence = np.linspace(0.3, 0.9, 15)
    pairs = confusion.worst_pairs(
        confusion.count(labels, guesses, 3), labels, guesses, confidence,
        pairs=2, images=2,
    )
    self.assertEqual(
        pairs,
        [confusion.Pair(0, 1, 2, 4, (2, 1)),  # 50 %
         confusion.Pair(1, 0, 3, 10, (13, 12))],  # 30 %, and not 25 %.
    )
    right = confusion.worst_pairs(
        confusion.count(labels, labels, 3), labels, labels, confidence,
        pairs=2, images=2,
    )
    self.assertEmpty(right)

  def test_blocks(self):
    """Of 1,000 classes, no cell is lost: 250 blocks of 4."""
    counts = np.zeros((1000, 1000), int)
    np.fill_diagonal(counts, 9)
    counts[999, 0] = 1
    blocks = confusion.Confusion(counts).in_blocks(250)
    self.assertEqual(blocks.shape, (250, 250))
    self.assertAlmostEqual(blocks[249, 0], 0.1)
    self.assertAlmostEqual(blocks[3, 3], 1.0)
    self.assertEqual(confusion.Confusion(counts[:7, :7]).in_blocks(3).shape,
                     (3, 3))


class ManySource(sources.Source):
  """Two images of each of 1,000 classes, every 100th of which is broken."""

  name = 'many'
  class_names = tuple(f'class {i}' for i in range(1000))

  def __len__(self):
    return 2000

  def read(self, index):
    pixels = np.full((8, 8), index % 256, np.uint8)
    broken = index % 100 == 99
    return b'' if broken else sources.encode_png(pixels), index // 2

  def describe(self, index):
    return f'image {index}'

  def fingerprint(self):
    return 'many'


class ManyNetwork:
  """Right of every class but the first ten, which it takes for the next."""

  class_names = ManySource.class_names

  def stream(self, images):
    for image in images:
      try:
        image()
      except ImageError as error:
        yield error
        continue
      (index,) = image.args
      row = np.full(1000, 1e-4)
      row[index // 2 + (index < 20)] = 0.9
      yield row


class ManyClassesTest(PageTestCase):

  def test_section(self):
    reader = images_lib.Images(ManySource(), 16)
    part = classes.classes(ManyNetwork(), reader, limit=5000)
    text, left_out, figures, table, _, strips = part.blocks
    self.assertRegex(left_out, '^20 images were left out: .* and 17 more')
    # 20 images are broken, none of the first ten classes.
    self.assertIn(
        'Of 1,980 of 2,000 evaluation images, 1,960 are classified correctly',
        text,
    )
    self.assertEqual([p.name for p in figures.pictures],
                     ['confusion', 'per_class'])
    self.assertIn('share of 4 x 4 classes', figures.pictures[0].title)
    for picture in figures.pictures:
      self.check_picture(*decoded(picture.light))
    self.assertEqual(table.headings[0], 'best')
    self.assertTrue(all(row[1] == '100.0%' for row in table.rows))
    self.assertEqual(
        {row[2] for row in table.rows if row[3] == '0.0%'},
        {f'class {i}' for i in range(10)},
    )
    self.assertLen(strips.strips, 6)
    self.assertIn('class 0, predicted as class 1: 2 of 2', strips.strips[0][0])
    self.check_picture('image/png', part.files['confusions'])

  def test_places_of_broken_images(self):
    """Every hundredth is broken, the last one of each."""
    reader = images_lib.Images(ManySource(), 16)
    with mock.patch.object(examples, 'places', lambda *_: np.array([99, 198])):
      indices, squares, left_out = examples.chosen(reader, 2)
    self.assertEqual(indices, [100, 198])
    self.assertEqual(squares[:, 0, 0, 0].tolist(), [100, 198])
    self.assertEqual(reader.labels[indices].tolist(), [50, 99])
    self.assertLen(left_out, 1)
    self.assertIn('image 99', left_out[0])
    (text,) = examples.left_out_text(left_out)
    self.assertRegex(text, '^1 image was left ou')
    self.assertEmpty(examples.left_out_text([]))
    with (
        mock.patch.object(ManySource, 'read', lambda self, index: (b'', 0)),
        self.assertRaisesRegex(DataError, 'no image of many can be read'),
    ):
      examples.chosen(reader, 3)

  def test_a_sample(self):
    part = classes.classes(
        ManyNetwork(), images_lib.Images(ManySource(), 16), limit=100
    )
    self.assertIn('Of 100 of 2,000 evaluation images', part.blocks[0])

  def test_places_by_hand(self):
    self.assertEqual(examples.places(5, 9).tolist(), [0, 2, 4, 6, 8])
    self.assertEqual(examples.places(3, 10).tolist(), [1, 5, 8])
    self.assertEqual(examples.places(9, 4).tolist(), [0, 1, 2, 3])


class ChartTest(PageTestCase):

  def svg(self, picture):
    return [decoded(url)[1].decode() for url in (picture.light, picture.dark)]

  def test_both_themes(self):
    draw = charts.lines(
        [charts.Line('one $', [(0, 1.0), (1, 0.5)], 0),
         charts.Line('two', [(0, 0.25)], 1)],
        xlabel='epochs', ylabel='loss',
    )
    picture = charts.chart('x', 'X', 'an x', draw)
    light, dark = self.svg(picture)
    for text, own, other in (
        (light, charts.LIGHT, charts.DARK), (dark, charts.DARK, charts.LIGHT)
    ):
      self.check_picture('image/svg+xml', text.encode())
      self.assertIn(own.ink, text)
      self.assertIn(own.colors[1], text)
      self.assertNotIn(other.ink, text)
      self.assertNotIn('<!DOCTYPE', text)
    again = charts.chart('x', 'X', 'an x', draw)
    self.assertEqual(again, picture)

  @parameterized.parameters('$x_{$', '$$', r'\$', '_run', '_', 'a' * 31 + '$b$')
  def test_any_name(self, name):
    """Matplotlib takes no formula for it and leaves it in the legend."""
    shown = name if len(name) <= 32 else name[:31] + '…'
    two = [charts.Line(label, [(0, 1), (1, 2)], 0) for label in (name, 'b')]
    draws = [
        charts.lines(two, xlabel='x', ylabel='y'),
        charts.bars({name: 0.5, 'b': 0.25}, xlabel='x'),
        charts.matrix(
            np.eye(2), [name, 'b'], classes=2, xlabel='x', ylabel='y'
        ),
    ]
    for draw in draws:
      text = self.svg(charts.chart('x', 'X', 'an x', draw))[0]
      words = ElementTree.fromstring(text).iter()
      self.assertIn(shown, [element.text for element in words])

  def test_escaped_letters_take_no_room(self):
    """Of two columns in a legend, as without dollars."""
    heights = []
    for name in ('a' * 20, '$' * 20):
      two = [charts.Line(name, [(0, 1)], 0)] * 2
      draw = charts.lines(two, xlabel='x', ylabel='y')
      with Image.open(io.BytesIO(charts.chart('x', 'X', '', draw).png)) as file:
        heights.append(file.height)
    self.assertEqual(*heights)

  def test_said_in_words(self):
    two = [charts.Line('a', [(0, 0.5), (1, 0.25), (2, 0.375)], 0),
           charts.Line('b', [(0, 12345.678)], 1)]
    self.assertEqual(
        charts.say(two, best=min),
        'a: from 0.5 to 0.375, best 0.25; b: from 1.235e+04 to 1.235e+04, best '
        '1.235e+04',
    )
    self.assertEqual(
        charts.say(two[:1], percent=True), 'a: from 50.00% to 37.50%'
    )

  def axes(self, draw):
    figure = Figure()
    draw(axes := figure.subplots(), charts.LIGHT)
    return axes

  def test_layers_differ_in_more_than_colour(self):
    of_layers = [
        charts.Line(f'layer {i}', [(0, 1), (1, i)], i, marked=True)
        for i in range(12)
    ]
    draw = charts.lines(of_layers, xlabel='x', ylabel='y', ordered=True)
    looks = {
        (line.get_linestyle(), line.get_marker())
        for line in self.axes(draw).lines
    }
    self.assertLen(looks, 12)

  def test_no_mark_is_cut(self):
    """Of values near each other and far from zero, and of nothing but zeros."""
    for values in ((0.92, 0.9), (0.0, 0.0)):
      line = charts.Line('one', [*enumerate(values)], 0, marked=True)
      axes = self.axes(charts.lines([line], xlabel='x', ylabel='y'))
      self.assertEqual(axes.get_ylim()[0], 0)
      # Three points of a height of 150.
      self.assertLessEqual(1.02 * max(values), axes.get_ylim()[1])
      self.assertFalse(axes.lines[0].get_clip_on())

  def test_plain(self):
    plain = visualization_images.plain
    self.assertEqual(plain('abcd$e$\nx$y', 6), 'abcd\\$…\nx\\$y')
    self.assertEqual(
        plain('photos/$x_{$', 6, keep_end=True), '…' + r'\$x_{\$'
    )
    square = np.zeros((8, 8, 3), np.uint8)
    for name in ('$x_{$', '$' * 30):
      visualization_images.rows([[square]], [[name]])
      visualization_images.predictions([square], np.eye(1), [0], [name])

  @parameterized.parameters(0.001, 0.0)
  def test_a_logarithm_of_nothing_is_not_drawn(self, lowest):
    draw = charts.lines(
        [charts.Line('one', [(0, 1.0), (1, lowest)], 0)],
        xlabel='x', ylabel='y', log=True,
    )
    self.check_picture(
        'image/png', charts.chart('x', 'X', 'an x', draw).png
    )

  @parameterized.parameters(True, False)
  def test_matrix(self, named):
    names = ['a', 'b' * 50] if named else None
    draw = charts.matrix(
        np.array([[0.75, 0.25], [0.0, 1.0]]), names, classes=2,
        xlabel='x', ylabel='y',
    )
    text = self.svg(charts.chart('x', 'X', 'an x', draw))[0]
    self.assertEqual('>75<' in text, named)
    self.assertNotIn('b' * 50, text)


class PageTest(PageTestCase):

  def test_texts_are_escaped(self):
    bad = '<script>alert("x")</script> & more'
    tile = page.Tile('data:image/png;base64,', bad)
    text = page.render(bad, bad, [page.Section(bad, [
        bad, page.Heading(bad), page.Missing(bad), page.Code((bad,)),
        page.Facts(((bad, bad),)), page.Strips(((bad, (tile,)),)),
        page.Cards((page.Card(tile, ((bad, 0.5, True),)),)),
        page.Details(bad, (bad,)),
    ])])
    self.assertNotIn('<script', text)
    self.assertEqual(Parser(text).titles, [bad])

  def test_for_those_who_cannot_see_it(self):
    """Tables are scrolled by keys; an image says what its text does not."""
    tiles = [
        page.Tile('data:,', f'class {mark}', mark)
        for mark in ('', 'right', 'wrong')
    ]
    text = page.render('a', 'b', [page.Section('c', [
        page.Strips((('row', tuple(tiles)),)),
        tables.Table(('run & epoch', '', 'loss'), (('1', '2', '3'),)),
    ])])
    self.assertIn(
        '<div class="table" tabindex="0" role="region" '
        'aria-label="run &amp; epoch, loss">', text,
    )
    self.assertEqual(
        re.findall('alt="(.*?)"', text),
        ['', 'of the same class', 'of another class'],
    )
    self.assertEqual(text.count('class right'), 1)

  def test_pictures_of_an_earlier_report(self):
    """Those that it wrote itself go with it."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    png = sources.encode_png(np.zeros((9, 9), np.uint8))
    draw = charts.bars({'a': 0.5}, xlabel='x')
    figures = page.Figures((charts.chart('one', 'One', 'a one', draw),))
    first = build.Report()
    first.add('A', lambda: [figures])
    first.files = {'two_2': png, 'three': png}
    first.write(folder, 'first', '')
    names = lambda: {p.name for p in (folder / 'report').iterdir()}
    self.assertEqual(names(), {'one.png', 'two_2.png', 'three.png'})
    (folder / 'report' / 'own.png').write_bytes(png)
    second = build.Report()
    second.files = {'three': png}
    second.write(folder, 'second', '')
    self.assertEqual(names(), {'three.png', 'own.png'})
    self.read(folder / 'report.html')

  def test_names_that_are_no_words(self):
    section = page.Section('Ünter & über', ())
    self.assertEqual(urllib.parse.quote(section.anchor), section.anchor)

  def test_top(self):
    probabilities = np.array([[0.1, 0.4, 0.4, 0.05, 0.03, 0.02]])
    (best,) = visualization_images.top(probabilities, 3)
    self.assertEqual(best, [(1, 0.4), (2, 0.4), (0, 0.1)])
    (all_of_them,) = visualization_images.top(probabilities)
    self.assertLen(all_of_them, 5)


if __name__ == '__main__':
  absltest.main()
