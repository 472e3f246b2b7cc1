"""What is transparent has one background, in training and wherever else."""

import json
import pathlib

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.analysis.features import images as images_lib
from alexnet.checkpointing import input_spec, workdir
from alexnet.config.errors import CheckpointError
from alexnet.inference import image_files, loading
from input_pipeline import datasets
from input_pipeline.errors import DataError
from input_pipeline.prepared import reader
from tests import preparing, tiny, tiny_run

BLUE = (10, 20, 200)


def write_cut_outs(root):
  """Photographs of which the left half is transparent, and hides green."""
  for label, name in enumerate(('ant', 'newt')):
    for index in range(4):
      path = root / name / f'{index}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      levels = np.full((64, 64, 4), (0, 255, 0, 0), np.uint8)
      levels[:, 32:] = label, index, 99, 255
      Image.fromarray(levels).save(path)


class BackgroundTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    self.photos = self.root / 'cut_outs'
    write_cut_outs(self.photos)
    self.config = tiny.get_config()
    self.config.dataset.train_dir = str(self.photos)

  def assert_left(self, square, colour):
    np.testing.assert_array_equal(square[128, 40], colour)
    self.assertEqual(square[128, 220, 2], 99)

  @parameterized.parameters(
      (None, (255, 255, 255)), (BLUE, BLUE), ((), (0, 255, 0))
  )
  def test_of_a_folder(self, background, expected):
    if background is not None:
      self.config.dataset.background = background
    for source in datasets.create_sources(self.config.dataset, 0):
      self.assert_left(source.image(0)[0], expected)

  @parameterized.parameters(
      ((), (255, 255, 255)), (('--background=10,20,200',), BLUE)
  )
  def test_of_prepared_data(self, flags, expected):
    self.prepare(self.photos, '--storage=raw', *flags)
    about = json.loads((self.out / 'manifest.json').read_text())
    self.assertEqual(about['settings']['background'], list(expected))
    for source in reader.open_prepared(self.out):
      self.assert_left(source.image(0)[0], expected)
      self.assertEqual(source.background, expected)
    # A run tells its network of it, and may not ask for another.
    self.config.dataset.update(name='prepared', dir=str(self.out))
    sources = datasets.create_sources(self.config.dataset, 0)
    self.assertEqual(sources[0].background, expected)
    self.config.dataset.background = (1, 2, 3)
    with self.assertRaisesRegex(DataError, r'is \(1, 2, 3\), but .*--backgr'):
      datasets.create_sources(self.config.dataset, 0)

  def test_prepared_before_there_was_one(self):
    self.prepare(self.photos, '--storage=raw')
    path = self.out / 'manifest.json'
    about = json.loads(path.read_text())
    del about['settings']['background']
    path.write_text(json.dumps(about))
    self.assertEqual(reader.open_prepared(self.out)[0].background, ())
    about['settings']['background'] = [1, 2, 300]
    path.write_text(json.dumps(about))
    with self.assertRaisesRegex(DataError, 'background is no colour'):
      reader.open_prepared(self.out)

  @parameterized.parameters('white', '1,2', '1,2,256', '1,2,-3', '')
  def test_flags_that_are_no_colour(self, text):
    self.assert_refused(
        '--background is .*expected three levels from 0 to 255',
        f'--source={self.photos}', f'--background={text}',
    )


class NetworkTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir())
    self.photos, self.workdir = root / 'photos', root / 'run'
    write_cut_outs(self.photos)
    self.network = tiny_run.write(self.workdir, self.photos, 2)

  def colours(self, network):
    """Of the left half, wherever a network reads images."""
    photo = self.photos / 'ant' / '0.png'
    images = images_lib.open_images(
        str(self.photos), config=network.config, inputs=network.inputs
    )
    image = image_files.open_image(photo, network.inputs.background)
    return {
        tuple(network.squares([photo])[0, 128, 40].tolist()),
        tuple(images.square(0)[128, 40].tolist()),
        image.getpixel((9, 9)),
    }

  def write(self, background):
    inputs = input_spec.load(self.workdir)
    input_spec.save(
        self.workdir,
        input_spec.Inputs(*[*vars(inputs).values()][:-1], background),
    )
    return loading.load(self.workdir)

  def test_is_that_of_training(self):
    self.assertEqual(self.colours(self.network), {(255, 255, 255)})
    self.assertEqual(self.colours(self.write(BLUE)), {BLUE})
    self.assertEqual(self.colours(self.write(())), {(0, 255, 0)})

  def test_of_an_older_run(self):
    with np.load(self.workdir / input_spec.FILE) as arrays:
      arrays = {k: v for k, v in arrays.items() if k != 'background'}
    np.savez(self.workdir / input_spec.FILE, **arrays)
    self.assertEqual(self.colours(loading.load(self.workdir)), {(0, 255, 0)})
    path = self.workdir / workdir.CONFIG
    config = json.loads(path.read_text())
    del config['dataset']['background']
    path.write_text(json.dumps(config))
    self.assertEqual(workdir.load_config(self.workdir).dataset.background, ())

  def test_damaged(self):
    with np.load(self.workdir / input_spec.FILE) as arrays:
      arrays = dict(arrays)
    for bad in (np.zeros(2, np.uint8), np.zeros(3), np.zeros((3, 1), np.uint8)):
      np.savez(self.workdir / input_spec.FILE, **{**arrays, 'background': bad})
      with self.assertRaisesRegex(CheckpointError, 'background'):
        input_spec.load(self.workdir)


if __name__ == '__main__':
  absltest.main()
