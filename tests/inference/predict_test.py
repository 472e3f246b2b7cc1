"""Predictions of photos as a user gets them: terminal, files, exit status."""

import csv
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.inference import (
  fully_convolutional,
  image_files,
  loading,
  prediction_writers,
  predictions,
)
from alexnet.metrics.console import Console
from alexnet.training import trainer
from input_pipeline.errors import ImageError, printable
from tests import commands, testing, tiny

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES = ROOT.parent / 'shared' / 'data' / 'imagenet_samples'

# Four names of classes, in their order; neither a terminal nor Matplotlib must
# obey the first.
CLASSES = ('$x_1 \x1b[31m', 'cat', 'dog', 'fish')


GREY = np.full((256, 256, 3), 100, np.uint8)


def prediction(path, *probabilities):
  order = np.argsort(probabilities)[::-1]
  return predictions.Prediction(
      pathlib.Path(path),
      tuple((int(i), CLASSES[i], probabilities[i]) for i in order),
  )


class TextTest(parameterized.TestCase):

  def test_bars_by_hand(self):
    """24 characters are 1; 0.26 are 6.24 of them, 6 and 2 eighths."""
    text = predictions.to_text(prediction('a/b.jpg', 0.24, 0.26, 0.5, 0.0))
    self.assertEqual(
        text.splitlines(),
        [
            'a/b.jpg',
            '  dog' + ' ' * 13 + '50.00%  ' + '█' * 12,
            '  cat' + ' ' * 13 + '26.00%  ' + '█' * 6 + '▎',
            r'  $x_1 \x1b[31m   24.00%  ' + '█' * 5 + '▊',
            '  fish' + ' ' * 13 + '0.00%',
        ],
    )

  def test_terminal_without_such_characters(self):
    text = predictions.to_text(prediction('b.jpg', 0.2, 0.3, 0.5, 0.0), 'ascii')
    self.assertIn('50.00%  ' + '#' * 12 + '\n', text)
    text.encode('ascii')


class FilesTest(parameterized.TestCase):
  """Writers of files, without a network."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def writer(self, name):
    network = types.SimpleNamespace(
        class_names=CLASSES, step=1, square=lambda path: GREY
    )
    return prediction_writers.create(
        self.folder / name, network, views='centre', top=4
    )

  def picture(self, network, result, **arguments):
    """[height, width, 3] of the picture of one prediction, 100 dots an inch."""
    path = self.folder / 'picture.png'
    with prediction_writers.create(
        path, network, top=4, **arguments
    ) as writer:
      writer.add(result)
      writer.finish()
    with Image.open(path) as image:
      return np.asarray(image.convert('RGB')).astype(int)

  def test_heat_is_where_the_object_is(self):
    """At 448 pixels in the lower right, of 256 that say nothing."""
    photo = self.folder / 'photo.png'
    Image.fromarray(np.full((500, 500, 3), 100, np.uint8)).save(photo)
    coarse = np.full((2, 2, 4), 0.0, np.float32)
    fine = np.zeros((8, 8, 4), np.float32)
    fine[4:, 4:, 2] = 1
    maps = [
        fully_convolutional.Map(fine, (448, 448)),
        fully_convolutional.Map(coarse, (256, 256)),
    ]
    result = predictions.Prediction(photo, ((2, 'dog', 0.4),), maps)
    network = FakeNetwork(testing.narrow_config(), 'keep')
    pixels = self.picture(network, result, views='dense', scales=(448, 256))
    # Images are 240 dots wide, the photo from 20 and its map from 260 on, and
    # both from 25 on downwards. 0.5 is the scale's middle.
    self.assertEqual(pixels[205, 200].tolist(), [100] * 3)
    hot, *cold = (
        pixels[y, x] for y, x in ((205, 440), (205, 320), (85, 440), (85, 320))
    )
    for one in cold:
      np.testing.assert_allclose(one, 0.4 * 100, atol=3)
    # Inferno's middle is red, a half of which is the mean over the scales.
    np.testing.assert_allclose(
        hot, 0.4 * 100 + 0.6 * np.array([188, 55, 84]), atol=3
    )
    # The scale: the same colour at its middle, of 480 dots.
    self.assertEqual(pixels.shape, (445, 520, 3))
    np.testing.assert_allclose(
        pixels[392, 260], 0.4 * 128 + 0.6 * np.array([188, 55, 84]), atol=4
    )

  def test_the_square_that_was_seen(self):
    """And not the rest of the photo."""
    photo = self.folder / 'photo.png'
    Image.new('RGB', (900, 300)).save(photo)
    network = types.SimpleNamespace(square=lambda path: GREY)
    result = predictions.Prediction(photo, ((2, 'dog', 0.4),))
    pixels = self.picture(network, result, views='centre')
    self.assertTrue((pixels[30:260, 25:255] == 100).all())

  @parameterized.parameters('a.csv', 'a.json', 'a.png')
  def test_interrupted(self, name):
    """What was there before stays, and nothing else is there."""
    (self.folder / name).write_text('earlier')
    with self.assertRaises(KeyboardInterrupt), self.writer(name) as writer:
      writer.add(ImageError('b.jpg', 'broken'))
      raise KeyboardInterrupt
    (file,) = self.folder.iterdir()
    self.assertEqual(file.read_text(), 'earlier')

  @parameterized.parameters('a.csv', 'a.json', 'a.png')
  def test_there_at_the_end(self, name):
    with self.writer(name) as writer:
      writer.add(ImageError('b.jpg', 'broken'))
      self.assertFalse((self.folder / name).exists())
      writer.finish()
    (file,) = self.folder.iterdir()
    self.assertEqual(file.name, name)
    self.assertGreater(file.stat().st_size, 20)
    if name == 'a.json':
      self.assertLen(json.loads(file.read_text())['files'], 1)


class CommandTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    images = testing.write_images(cls.directory / 'images', 4, 3)
    for number, name in enumerate(CLASSES):
      (images / f'class{number}').rename(images / name)
    config = tiny.get_config()
    config.dataset.train_dir = str(images)
    config.dataset.eval_fraction = 0.34
    config.evaluation_batch_size = 8
    cls.workdir = cls.directory / 'run'
    # Its first parameters, as of step 2: training would make no difference.
    run = trainer.create(config, cls.workdir, Console(io.StringIO()))
    run.progress.step = 2
    run._save(required=True)
    run.close()
    cls.images = sorted(images.rglob('*.jpg'))
    shutil.move(images, cls.directory / 'moved')
    cls.images = sorted((cls.directory / 'moved').rglob('*.jpg'))
    cls.network = loading.load(cls.workdir)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def run_command(self, *arguments):
    result = commands.run(
        '-m', 'alexnet.predict', f'--workdir={self.workdir}', *arguments
    )
    self.assertNotIn('Traceback', result.stderr)
    return result.returncode, result.stdout, result.stderr

  def test_broken_files_among_others(self):
    """More files than are shown, in folders; the rest answered, names named."""
    folder = self.folder / 'photos'
    for number in range(30):
      place = folder / f'folder{number % 3}' / f'{number:02d}.jpg'
      place.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(self.images[number % 12], place)
    whole = self.images[0].read_bytes()
    (folder / 'folder1' / '07.jpg').write_bytes(whole[:200])
    (folder / 'folder2' / '05.jpg').write_bytes(b'')
    (folder / 'folder2' / 'text.png').write_text('not an image')
    (folder / 'folder2' / 'list.txt').write_text('')
    (folder / '.hidden.jpg').write_text('')
    outputs = [self.folder / name for name in ('a.csv', 'b.json', 'c.png')]
    status, output, error = self.run_command(
        folder, self.images[1], self.folder / 'missing.jpg',
        *(f'--output={path}' for path in outputs),
    )
    self.assertEqual(status, 1)
    self.assertIn('4 of 33 files could not be used:', error)
    for name in ('folder1/07.jpg', 'folder2/05.jpg', 'folder2/text.png',
                 'missing.jpg'):
      self.assertRegex(error, rf'(?m)^  /.*{name}: \w')
    self.assertIn('... and 9 more', output)
    self.assertIn('33 files in ', output)
    self.assertRegex(output, r'left out: 1 .*hidden.jpg.*1 \.txt \(.*list.txt')

    with open(outputs[0], encoding='utf-8', newline='') as f:
      head, *rows = csv.reader(f)
    self.assertEqual(
        head,
        ['file', 'error']
        + [f'{w}{i}' for i in range(1, 5) for w in ('class', 'probability')],
    )
    self.assertLen(rows, 33)
    self.assertEqual({len(row) for row in rows}, {10})
    good = [row for row in rows if not row[1]]
    self.assertLen(good, 29)
    expected = self.network.predict([row[0] for row in good])
    for row, probabilities in zip(good, expected):
      got = dict(zip(row[2::2], map(float, row[3::2])))
      self.assertEqual(row[2], CLASSES[np.argmax(probabilities)])
      np.testing.assert_allclose(
          [got[name] for name in CLASSES], probabilities, atol=2e-6
      )
    values = json.loads(outputs[1].read_text())
    self.assertEqual(values['step'], 2)
    self.assertEqual([v['file'] for v in values['files']], [r[0] for r in rows])
    for value, row in zip(values['files'], rows):
      if row[1]:
        self.assertEqual(value['error'], row[1])
      else:
        self.assertEqual(value['classes'][0]['class'], row[2])
    with Image.open(outputs[2]) as picture:
      self.assertGreater(min(picture.size), 600)
    self.assertIn('24 images, the first of 29', output)

  @parameterized.parameters('SIGTERM', 'SIGINT', 'SIGUSR1')
  def test_stopped(self, name):
    """What is known by then is in the files, and said."""
    folder = self.folder / 'photos'
    folder.mkdir()
    for index in range(3000):
      (folder / f'{index:04d}.jpg').symlink_to(self.images[0])
    output = self.folder / 'out' / 'a.csv'
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, '-u', '-m', 'alexnet.predict', str(folder),
         f'--workdir={self.workdir}', f'--output={output}'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    process.stdout.readline()  # It has begun.
    process.send_signal(number)
    _, error = process.communicate()
    self.assertEqual(process.returncode, 128 + number, error)
    count = re.search(rf'stopped by {name} after (\d+) of 3,000 files', error)
    (file,) = output.parent.iterdir()
    with open(file, encoding='utf-8', newline='') as f:
      _, *rows = csv.reader(f)
    self.assertLen(rows, int(count[1]))
    self.assertEqual({len(row) for row in rows}, {10})

  def test_dense_views_of_one_photo(self):
    photo = self.images[0]
    picture = self.folder / 'heat.png'
    status, output, error = self.run_command(
        photo, '--views=dense', '--scales=224,256', f'--output={picture}',
        '--top=2',
    )
    self.assertEqual(status, 0, error)
    probabilities = self.network.predict(
        [photo], views='dense', scales=(224, 256)
    )[0]
    best = np.argsort(-probabilities)[:2]
    lines = output.splitlines()
    self.assertEqual(lines[1], printable(str(photo)))
    for line, label in zip(lines[2:4], best):
      self.assertIn(f'{probabilities[label]:.2%}', line)
    self.assertNotIn('files in', output)
    with Image.open(picture) as image:  # See FilesTest.
      self.assertEqual(image.size, (520, 445))

  @parameterized.parameters((None, (448, 544)), ((224, 288), (288, 352)))
  def test_scales_of_a_picture(self, scales, size):
    """Without --scales predictions are at 256 pixels and the map is at 448."""
    results = [*predictions.predictions(
        self.network, self.images[:1], views='dense', scales=scales
    )]
    path = self.folder / 'a.png'
    with (
        mock.patch.object(
            fully_convolutional, 'heat_map', wraps=fully_convolutional.heat_map
        ) as heat,
        prediction_writers.create(
            path, self.network, views='dense', top=2, scales=scales
        ) as writer,
    ):
      writer.add(results[0])
      writer.finish()
    maps, label, of_picture, *_ = heat.call_args.args
    self.assertEqual(of_picture, size)
    self.assertLen(maps, 1 if scales is None else 2)
    self.assertEqual(maps[-1].size, size)
    self.assertEqual(label, results[0].classes[0][0])

  @parameterized.parameters(
      (['x.jpg', '--output=a.gif'], r'--output is /.*/a\.gif: expected a name'),
      (['x.jpg', '--output=a.csv', '--output=./a.csv'],
       r'--output is /.*/a\.csv more than once'),
      (['x.jpg', '--scales=256'], "--views is 'centre': set --views=dense"),
      (['x.jpg', '--top=0'], '--top is 0: expected at least 1'),
      (['x.jpg', '--views=dense', '--scales=100'], 'expected at least 224'),
      (['EMPTY'], 'no image .*in /'),
      ([], 'no image is named: give files or folders'),
  )
  def test_one_message(self, arguments, message):
    empty = [a.replace('EMPTY', str(self.folder)) for a in arguments]
    status, output, error = self.run_command(*empty)
    self.assertEqual(status, 1)
    self.assertRegex(output + error, message)

  def test_other_names_for_classes(self):
    file = self.folder / 'names.txt'
    file.write_text(''.join(f'{name} new-{name}, x\n' for name in CLASSES[1:]))
    status, output, error = self.run_command(
        self.images[0], f'--class_names={file}', '--step=2', '--top=4'
    )
    self.assertEqual(status, 0, error)
    for name in CLASSES[1:]:
      self.assertRegex(output, rf'(?m)^  new-{name} ')
    status, output, error = self.run_command(self.images[0], '--step=7')
    self.assertEqual(status, 1)
    self.assertIn('no checkpoint of step 7: it has 2', error)

  def test_a_run_without_its_inputs(self):
    """What the flags say is where its images are is read."""
    older = self.folder / 'older'
    shutil.copytree(self.workdir, older)
    (older / 'inputs.npz').unlink()
    moved = self.directory / 'moved'
    status, output, error = self.run_command(
        self.images[0], f'--workdir={older}', f'--train_dir={moved}'
    )
    self.assertEqual(status, 0, error)
    self.assertIn('4 classes', output)

  def test_predictions_of_ten_views(self):
    results = [
        *predictions.predictions(
            self.network, self.images[:3], views='ten', top=1
        )
    ]
    expected = self.network.predict(self.images[:3], views='ten')
    for result, probabilities in zip(results, expected):
      ((label, name, probability),) = result.classes
      self.assertEqual(label, np.argmax(probabilities))
      self.assertEqual(name, CLASSES[label])
      self.assertAlmostEqual(probability, probabilities.max(), places=6)

  @absltest.skipUnless(SAMPLES.is_dir(), f'{SAMPLES} is not there')
  def test_awkward_images(self):
    paths, _ = image_files.find([str(SAMPLES)])
    self.assertLen(paths, 117)
    for views in ('centre', 'dense'):
      results = [*predictions.predictions(self.network, paths, views=views)]
      self.assertLen(results, len(paths))
      for result in results:
        self.assertNotIsInstance(result, ImageError)
        self.assertAlmostEqual(sum(p for *_, p in result.classes), 1, places=5)

  def test_without_tensorflow(self):
    """It takes seconds to import, and nothing is read by it here."""
    code = (
        'import sys; sys.modules["tensorflow"] = None; '
        'import alexnet; '
        f'network = alexnet.load({str(self.workdir)!r}); '
        f'print(network.predict([{str(self.images[0])!r}]).shape)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    self.assertEqual(result.stdout, '(1, 4)\n', result.stderr)


class FindTest(parameterized.TestCase):

  @parameterized.parameters(
      ('photos', ['photos/a.jpg']),
      ('./photos/a.jpg', ['photos/a.jpg']),
      ('photos/../photos', ['photos/../photos/a.jpg']),
      ('{}/photos', ['{}/photos/a.jpg']),
      ('~/photos', ['{}/photos/a.jpg']),
      ('~/missing.jpg', ['{}/missing.jpg']),
      ('https://x.org/a.jpg', ['https://x.org/a.jpg']),
  )
  def test_spelling(self, given, expected):
    """Names are shown and written as the user knows them."""
    folder = self.create_tempdir().full_path
    testing.write_images(pathlib.Path(folder) / 'made', 1, 1)
    (image,) = pathlib.Path(folder).rglob('*.jpg')
    os.mkdir(f'{folder}/photos')
    image.rename(f'{folder}/photos/a.jpg')
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(folder)
    with mock.patch.dict(os.environ, {'HOME': folder}):
      found, _ = image_files.find([given.format(folder)])
    self.assertEqual(
        [*map(str, found)], [path.format(folder) for path in expected]
    )

  @parameterized.parameters('https://x.org/a.jpg', 'gs://bucket/b.jpg')
  def test_an_address(self, address):
    """Is an error of that one."""
    (found,), _ = image_files.find([address])
    with self.assertRaisesRegex(ImageError, 'an address: down') as raised:
      image_files.open_image(found, (255, 255, 255))
    self.assertEqual(raised.exception.name, address)


class WholeTest(parameterized.TestCase):
  """What dense views show of an image, by sizes worked out by hand."""

  @parameterized.parameters(
      # 500 x 375 at 256: 341.3 x 256; 85 pixels more than 256 have 2 x 32.
      ((500, 375), 256, (256, 320)),
      ((375, 500), 256, (320, 256)),
      ((224, 224), 300, (300, 300)),
      # Four times as long as wide at most: 256 + 24 * 32 = 1024.
      ((9000, 100), 256, (256, 1024)),
  )
  def test_sizes(self, size, scale, expected):
    network = FakeNetwork(testing.narrow_config(), 'keep')
    image = Image.new('RGB', size)
    seen = fully_convolutional.whole(network, image, scale)
    self.assertEqual(seen.shape, (*expected, 3))

  def test_middle_of_a_long_image(self):
    """Red ends are cut off, the grey middle is left."""
    pixels = np.full((32, 64, 3), 100, np.uint8)
    pixels[:, :6] = pixels[:, -6:] = (255, 0, 0)
    network = FakeNetwork(testing.narrow_config(), 'keep')
    # 224 x 448 have 7 x 32 more; at 230 pixels 460 have 7 x 32 and 6 over.
    seen = fully_convolutional.whole(network, Image.fromarray(pixels), 224)
    self.assertEqual(seen.shape, (224, 448, 3))
    np.testing.assert_array_equal(seen[:, 20], [[255, 0, 0]] * 224)
    long = Image.fromarray(np.repeat(pixels, 4, axis=1))
    seen = fully_convolutional.whole(network, long, 224)  # Half of it.
    self.assertEqual(seen.shape, (224, 896, 3))
    np.testing.assert_array_equal(seen, 100)

  def test_warped(self):
    network = FakeNetwork(testing.narrow_config(), 'warp')
    seen = fully_convolutional.whole(network, Image.new('RGB', (500, 100)), 256)
    self.assertEqual(seen.shape, (256, 256, 3))


class FakeNetwork:

  def __init__(self, config, aspect):
    self.config = config
    self.inputs = FakeInputs(aspect)
    self.model = types.SimpleNamespace(stride=32)


class FakeInputs:

  def __init__(self, aspect):
    self.aspect = aspect
    self.background = (255, 255, 255)


if __name__ == '__main__':
  absltest.main()
