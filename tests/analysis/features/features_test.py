"""Features and the images that are found by them, as a user does it."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.analysis import retrieve
from alexnet.analysis.features import extract as extract_lib
from alexnet.analysis.features import images, store
from alexnet.config.errors import ConfigError
from input_pipeline.errors import DataError
from tests import commands, testing, tiny_run


def run_command(name, *arguments):
  """(exit status, stdout, stderr) of a command of alexnet.analysis."""
  result = commands.run('-m', f'alexnet.analysis.{name}', *arguments)
  return result.returncode, result.stdout, result.stderr


class FeaturesTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.directory / 'images', 3, 5)
    cls.workdir = cls.directory / 'run'
    cls.network = tiny_run.write(cls.workdir, cls.images, classes=3)
    cls.photos = sorted(cls.images.rglob('*.jpg'))
    cls.by_hand = cls.network.features(cls.photos, 'fc7')

  def open(self, source, which='train'):
    return images.open_images(source, which, config=self.network.config)

  def extract(self, source, name, layer='fc7', **arguments):
    path = self.directory / name
    writer = store.Writer(path, {})
    left_out = extract_lib.extract(
        self.network, source, layer, writer, **arguments
    )
    writer.close()
    return store.load(path), left_out

  @parameterized.parameters('fc7', 'pool5', 'fc8')
  def test_are_those_of_the_network(self, layer):
    found, left_out = self.extract(
        self.open(str(self.images)), f'layer-{layer}', layer
    )
    self.assertEmpty(left_out)
    np.testing.assert_allclose(
        found.features, self.network.features(self.photos, layer), rtol=1e-5,
        atol=1e-5,
    )
    self.assertEqual(found.labels.tolist(), [0] * 5 + [1] * 5 + [2] * 5)
    self.assertEqual(
        list(found.names),
        [str(photo.relative_to(self.images)) for photo in self.photos],
    )

  def test_in_parts(self):
    """Batches that do not divide the number of images."""
    with self.network.config.ignore_type():
      self.network.config.evaluation_batch_size = 4
    self.addCleanup(setattr, self.network.config, 'evaluation_batch_size', 16)
    found, _ = self.extract(self.open(str(self.images)), 'parts')
    np.testing.assert_allclose(found.features, self.by_hand, rtol=1e-5)
    found, _ = self.extract(self.open(str(self.images)), 'few', limit=6)
    np.testing.assert_allclose(found.features, self.by_hand[:6], rtol=1e-5)

  def test_what_cannot_be_read_is_left_out(self):
    folder = self.directory / 'broken'
    folder.mkdir()
    for number, photo in enumerate(self.photos[:4]):
      (folder / f'{number}.jpg').write_bytes(photo.read_bytes())
    (folder / '1.jpg').write_bytes(b'\xff\xd8nothing')
    found, left_out = self.extract(self.open(str(folder)), 'rest')
    self.assertLen(left_out, 1)
    self.assertIn('1.jpg', left_out[0])
    np.testing.assert_allclose(
        found.features, self.by_hand[[0, 2, 3]], rtol=1e-5
    )
    self.assertEqual(found.indices.tolist(), [0, 2, 3])
    self.assertEqual(list(found.names), ['0.jpg', '2.jpg', '3.jpg'])
    self.assertEqual(found.labels.tolist(), [-1, -1, -1])

  @parameterized.parameters('notes.txt', '.DS_Store', 'x.heic')
  def test_what_is_no_photo_is_told(self, name):
    folder = pathlib.Path(self.create_tempdir())
    (folder / name).touch()
    with self.assertRaisesRegex(DataError, f'left out: 1 .*{name}'):
      self.open(str(folder))
    (folder / '0.jpg').write_bytes(self.photos[0].read_bytes())
    self.assertIn(name, str(self.open(str(folder)).source.ignored))

  def test_sources(self):
    run = self.open('train'), self.open('evaluation')
    self.assertEqual(sorted(map(len, run)), [3, 12])  # A tenth of each class.
    self.assertLen(self.open('digits', 'evaluation'), 360)
    with self.assertRaisesRegex(DataError, 'has no evaluation set'):
      self.open(str(self.images), 'evaluation')
    with self.assertRaisesRegex(DataError, 'does not exist'):
      self.open('nowhere')
    empty = self.create_tempdir().full_path
    with self.assertRaisesRegex(DataError, 'no image file'):
      self.open(empty)

  def test_folder_with_sets(self):
    folder = self.directory / 'sets'
    for name in ('train', 'val'):
      testing.write_images(folder / name, 2, {'train': 3, 'val': 1}[name])
    self.assertLen(self.open(str(folder)), 6)
    self.assertLen(self.open(str(folder), 'evaluation'), 2)

  def test_commands(self):
    output = self.directory / 'command'
    status, text, error = run_command(
        'features', f'--workdir={self.workdir}', f'--source={self.images}',
        f'--output={output}',
    )
    self.assertEqual(status, 0, error)
    self.assertIn('fc7 (32 float32) of 15 images', text)
    found = store.load(output)
    np.testing.assert_allclose(
        found.features, self.by_hand, rtol=1e-4, atol=1e-5
    )
    self.assertEqual(found.about['step'], 2)
    self.assertEqual(found.about['parameters'], self.network.fingerprint())

    picture = self.directory / 'neighbours.png'
    status, text, error = run_command(
        'retrieve', f'--workdir={self.workdir}', f'--features={output}',
        f'--query={self.photos[7]}', '--neighbours=3', f'--output={picture}',
    )
    self.assertEqual(status, 0, error)
    # The photo itself comes first.
    first = text.splitlines()[4].split()
    self.assertEqual(first[1:], ['class1', 'class1/002.jpg'])
    self.assertLess(float(first[0]), 0.01)
    with Image.open(picture) as drawn:
      self.assertGreater(drawn.width, 3 * drawn.height)

    # Features of a network with other parameters, of the same shape and step.
    manifest = output / store.MANIFEST
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, 'parameters': 'others'}))
    status, _, error = run_command(
        'retrieve', f'--workdir={self.workdir}', f'--features={output}',
        f'--query={self.photos[7]}',
    )
    self.assertEqual(status, 1)
    self.assertIn('parameters are not those of', error)
    manifest.write_text(json.dumps(values))

    status, _, error = run_command(
        'features', f'--workdir={self.workdir}', f'--source={self.images}',
        f'--output={output}', '--layer=fc9',
    )
    self.assertEqual(status, 1)
    self.assertRegex(error, "'fc9'.*expected one of pool1, pool2, .*fc8")
    store.load(output)  # As it was.


class RetrieveTest(absltest.TestCase):

  def found(self, path):
    writer = store.Writer(path, {'class_names': ['cat', 'dog']})
    vectors = np.array([[0, 0], [3, 4], [0, 1], [9, 9]], np.float32)
    writer.add(vectors, [0, 1, -1, 1], [5, 6, 7, 8], ['a', 'b', 'c', 'd'])
    writer.close()
    return store.load(path)

  def test_finds(self):
    found = self.found(pathlib.Path(self.create_tempdir().full_path) / 'set')
    (got,) = retrieve.find(found, np.zeros((1, 2)), 3)
    self.assertEqual(
        [(one.name, one.label, one.distance) for one in got],
        [('a', 'cat', 0.0), ('c', '', 1.0), ('b', 'dog', 5.0)],
    )
    self.assertEqual([one.row for one in got], [0, 2, 1])
    (got,) = retrieve.find(found, np.zeros((1, 2)), 10)
    self.assertLen(got, 4)

  def test_pictures_are_those_of_the_source(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    folder = testing.write_images(directory / 'images', 2, 2)
    source = images.open_sets(
        str(folder), config=testing.narrow_config('folder')
    )['train']
    writer = store.Writer(directory / 'set', {})
    names = [source.source.relative_name(i) for i in range(4)]
    writer.add(np.eye(4), [0, 0, 1, 1], np.arange(4), names)
    writer.close()
    found = store.load(directory / 'set')
    neighbour = retrieve.Neighbour(2, names[2], '', 0.0)
    (got,) = retrieve.pictures(found, source, [neighbour])
    photo = Image.open(folder / 'class1' / '000.jpg').resize(
        (256, 256), Image.Resampling.BICUBIC, box=(5, 0, 45, 40)
    )
    np.testing.assert_array_equal(got, np.asarray(photo))
    (folder / 'class0' / '000.jpg').unlink()
    fewer = images.open_sets(
        str(folder), config=testing.narrow_config('folder')
    )['train']
    with self.assertRaisesRegex(store.FeaturesError, 'other images'):
      retrieve.pictures(found, fewer, [neighbour])

  def test_picture_of_an_unknown_type(self):
    with self.assertRaisesRegex(ConfigError, 'expected a file that ends in'):
      retrieve.check_picture(pathlib.Path('neighbours.txt'))


if __name__ == '__main__':
  absltest.main()
