"""Commands in README and docs: those that take seconds are run."""

import pathlib
import re
import shlex
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from tests import commands, testing

ROOT = pathlib.Path(__file__).parents[1]
_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.S | re.M)
_COMMAND = re.compile(r'\bpython ((?:main\.py|-m \w).*)')
# Why others are not run: the first whose text is in the command.
_NOT_RUN = {
    'benchmarks.': 'takes minutes',
    'imagenet2012': 'needs ImageNet',
    'cuda_convnet.py': "needs the authors' files; see cuda_convnet_test",
    'alexnet.sweep': 'trains several networks; see commands_test',
    'figure1': 'needs a sweep',
    'dense_table': 'takes minutes; see dense_table_test',
    'cifar10.tar': 'needs CIFAR-10',
    'CIFAR10': 'needs CIFAR-10',
    'retrieval_table': 'probes several networks; see retrieval_table_test',
    '$set': 'is in a loop of the shell',
}
# Makes any training command one of seconds.
_SMALL = (
    *(f'--config.model.{layer}.features={features}'
      for layer, features in testing.NARROW.items()),
    '--config.augmentation.crop_size=72',
    '--config.batch_size=8', '--config.evaluation_batch_size=16',
    '--config.duration=4 steps', '--config.checkpoint_every=2 steps',
    '--config.evaluate_every=never', '--config.ten_views=False',
    '--config.layer_statistics_images=0', '--config.schedule.name=constant',
)


def blocks(document, language=''):
  text = (ROOT / document).read_text()
  return [code for kind, code in _BLOCK.findall(text) if kind == language]


def documented(document):
  """The commands of Python in a document, a line each."""
  lines = '\n'.join(blocks(document)).replace('\\\n', ' ').splitlines()
  return [found[1] for line in lines if (found := _COMMAND.search(line))]


def is_run(command):
  return not any(text in command for text in _NOT_RUN)


DOCUMENTS = [
    str(path.relative_to(ROOT))
    for path in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))
]


def run(root, command):
  """Runs a command on the files of a folder, in place of the reader's."""
  arguments = []
  for argument in shlex.split(command):
    flag, equals, value = argument.rpartition('=')
    if re.fullmatch(r'[A-Z]+|(runs|features)/\w+|\w+\.(jpg|png|md)', value):
      value = str(root / value)
    arguments.append(flag + equals + value)
  if arguments[0] == 'main.py':
    arguments += _SMALL
  done = commands.run(*arguments)
  assert not done.returncode, f'{command}\n{done.stdout}\n{done.stderr}'


class DocumentsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.files = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    testing.write_images(cls.files / 'PHOTOS', 2, 20)
    for name in 'SOURCE', 'FOLDER':
      (cls.files / name).symlink_to('PHOTOS')
    pixels = np.random.default_rng(0).integers(0, 255, (280, 300, 3), np.uint8)
    Image.fromarray(pixels).save(cls.files / 'photo.jpg')
    run(cls.files, 'main.py --config=configs/alexnet_2012.py:folder '
        '--workdir=RUN --config.dataset.train_dir=PHOTOS')

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    for path in self.files.iterdir():
      (self.root / path.name).symlink_to(path)

  def check(self, document):
    """In their order: later ones read what earlier ones have written."""
    for command in filter(is_run, documented(document)):
      run(self.root, command)
      for output in re.findall(r'--output=(\S+)', command):
        self.assertTrue((self.root / output).exists(), command)

  def test_readme(self):
    self.check('README.md')

  @parameterized.parameters(
      document for document in DOCUMENTS[1:]
      if any(map(is_run, documented(document)))
  )
  @pytest.mark.full
  def test_docs(self, document):
    self.check(document)

  def test_python(self):
    """README's example of the library."""
    (code,) = blocks('README.md', 'python')
    for name in 'runs/photos', 'photo.jpg':
      self.assertIn(f"'{name}'", code)
    code = code.replace('runs/photos', str(self.root / 'RUN'))
    found = {}
    exec(code.replace('photo.jpg', str(self.root / 'photo.jpg')), found)
    self.assertEqual(found['probabilities'].shape, (1, 2))
    self.assertEqual(found['features'].shape, (1, testing.NARROW['fc7']))

  def test_what_is_not_run(self):
    """Each reason is still of use, and many commands are run."""
    every = [one for document in DOCUMENTS for one in documented(document)]
    for text in _NOT_RUN:
      self.assertTrue(any(text in one for one in every), text)
    self.assertGreater(sum(map(is_run, every)), len(every) / 3)


if __name__ == '__main__':
  absltest.main()
