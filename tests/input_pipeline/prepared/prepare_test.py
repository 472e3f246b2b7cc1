"""The command: its results, its flags, images with faults, memory, --verify.

Expectations are Pillow's, NumPy's and hashlib's; see reader_test.py for the
reader and origins_test.py for what can be prepared.
"""

import importlib.metadata
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from input_pipeline import preprocessing, sources
from input_pipeline.files import listing
from input_pipeline.images import decoding
from input_pipeline.prepared import reader, writer
from tests import preparing
from tests.preparing import manifest, run, sha256

ROOT = pathlib.Path(__file__).parents[3]
NO_IMAGE = 'it is not a JPEG, PNG, WebP, GIF, TIFF or BMP file'
SAMPLES = ROOT.parent / 'shared' / 'data' / 'imagenet_samples'


def as_jpeg(pixels, quality=95):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(
      buffer, 'JPEG', quality=quality, subsampling='4:2:0'
  )
  return buffer.getvalue()


def decoded(items):
  """Pixels of stored items, JPEG files by Pillow."""
  return [
      np.asarray(Image.open(io.BytesIO(item)))
      if isinstance(item, bytes) else item
      for item in items
  ]


class ResultTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    self.photos = self.root / 'in'
    for name in ('ant', 'newt'):
      for index in range(5):
        preparing.write_picture(
            self.photos / 'train' / name / f'{index}.jpg', index,
            *((50, 40), (32, 64), (480, 384), (256, 256), (80, 20))[index]
        )
    (self.photos / 'train/newt/5.PNG').write_bytes(b'')
    preparing.write_picture(self.photos / 'train/newt/5.PNG', 7)
    preparing.write_picture(self.photos / 'val/ant/0.jpg', 8)
    preparing.write_picture(self.photos / 'val/newt/1.jpg', 9)

  def paths(self, set_name):
    folder = 'train' if set_name == 'train' else 'val'
    return sorted(
        path for path in (self.photos / folder).rglob('*') if path.is_file()
    )

  @parameterized.product(
      storage=('raw', 'jpeg'), set_name=('train', 'evaluation'), shard=(None, 4)
  )
  def test_images_labels_and_names(self, storage, set_name, shard):
    self.prepare(self.photos, f'--storage={storage}', shard=shard)
    stored = preparing.load(self.out, set_name)
    paths = self.paths(set_name)
    squares = [preparing.square(path) for path in paths]
    if storage == 'jpeg':
      self.assertEqual(
          list(map(sha256, stored.items)),
          [sha256(as_jpeg(pixels)) for pixels in squares],
      )
    else:
      np.testing.assert_array_equal(stored.items, squares)
    labels = [('ant', 'newt').index(path.parent.name) for path in paths]
    self.assertEqual(stored.labels, labels)
    # Within the set, wherever it lies.
    names = [f'{path.parent.name}/{path.name}' for path in paths]
    self.assertEqual(stored.names, names)
    shards = {'train': 3, 'evaluation': 1}[set_name] if shard else 1
    self.assertCountEqual(
        [path.name for path in self.out.glob(f'{set_name}-*')],
        [f'{set_name}-{i:05d}-of-{shards:05d}.npy' for i in range(shards)],
    )

  def test_quality(self):
    self.prepare(self.photos, '--quality=31')
    self.assertEqual(
        list(map(sha256, preparing.load(self.out).items)),
        [
            sha256(as_jpeg(preparing.square(path), 31))
            for path in self.paths('train')
        ],
    )
    self.assertEqual(manifest(self.out)['settings']['quality'], 31)

  @parameterized.parameters('raw', 'jpeg')
  def test_size(self, storage):
    self.prepare(self.photos, '--size=32', f'--storage={storage}')
    train, _ = reader.open_prepared(self.out)
    self.assertEqual(train.size, 32)
    squares = []
    for index, path in enumerate(self.paths('train')):
      whole = preprocessing.whole(32)
      square = train.image(index, whole)[0].astype(np.float64)
      squares.append(square)
      image = Image.open(path).convert('RGB')
      side = min(image.size)
      left, top = (image.width - side) / 2, (image.height - side) / 2
      wanted = image.resize(
          (32, 32), Image.Resampling.BICUBIC,
          box=(left, top, left + side, top + side),
      )
      error = np.abs(square - np.asarray(wanted, np.float64)).mean()
      self.assertLess(error, 1 if storage == 'raw' else 12)
      part = train.image(index, preprocessing.Box(2, 3, 20, 32))[0]
      np.testing.assert_array_equal(part, square[2:22, 3:23])
    np.testing.assert_allclose(
        train.statistics().mean_image, np.mean(squares, 0), atol=1e-3
    )

  def test_aspect_warp(self):
    self.prepare(self.photos, '--storage=raw', '--aspect=warp')
    np.testing.assert_array_equal(
        preparing.load(self.out).items,
        [
            preparing.resize(Image.open(path), 256, 256)
            for path in self.paths('train')
        ],
    )

  @parameterized.parameters('raw', 'jpeg')
  def test_manifest(self, storage):
    self.prepare(self.photos, f'--storage={storage}', shard=4)
    about = manifest(self.out)
    self.assertEqual(about['format'], 1)
    self.assertEqual(about['class_names'], ['ant', 'newt'])
    self.assertEqual(about['origin'], str(self.photos))
    self.assertEqual(
        about['settings'],
        {
            'storage': storage,
            'quality': 95 if storage == 'jpeg' else None,
            'aspect': 'keep',
            'size': 256,
            'background': [255, 255, 255],
            'filter': 'bicubic, antialiased',
        },
    )
    for package in ('numpy', 'pillow', 'simplejpeg'):
      self.assertEqual(
          about['versions'][package], importlib.metadata.version(package)
      )
    self.assertEqual(
        {n: s['images'] for n, s in about['sources'].items()},
        {'train': 11, 'evaluation': 2},
    )
    train, evaluation = (about['sets'][n] for n in ('train', 'evaluation'))
    self.assertEqual((train['images'], train['rejected']), (11, 0))
    self.assertEqual((evaluation['images'], evaluation['rejected']), (2, 0))
    self.assertEqual(train['images_of_class'], [5, 6])
    self.assertEqual(evaluation['images_of_class'], [1, 1])
    self.assertEqual([s['images'] for s in train['shards']], [4, 4, 3])
    hashes = dict(about['sha256'])
    for one in (train, evaluation):
      hashes |= one['files']
      for shard in one['shards']:
        hashes[shard['file']] = shard['sha256']
        size = (self.out / shard['file']).stat().st_size
        self.assertEqual(shard['bytes'], size)
    # Every file but the manifest itself, which has one of its own.
    files = {path.name for path in self.out.iterdir()}
    self.assertEqual(files, {*hashes, 'manifest.json'})
    for name, wanted in hashes.items():
      self.assertEqual(sha256(self.out / name), wanted, name)

  @parameterized.product(storage=('raw', 'jpeg'), shard=(None, 4))
  def test_statistics(self, storage, shard):
    """Those of NumPy on the very pixels that a run will see."""
    self.prepare(self.photos, f'--storage={storage}', shard=shard)
    images = np.stack(decoded(preparing.load(self.out).items)).astype(float)
    pixels = images.reshape(-1, 3)
    covariance = np.cov(pixels.T, bias=True)
    with np.load(self.out / 'statistics.npz') as arrays:
      np.testing.assert_allclose(
          arrays['mean_image'], images.mean(axis=0), rtol=1e-6
      )
      np.testing.assert_allclose(arrays['covariance'], covariance, rtol=1e-9)
    about = manifest(self.out)['statistics']
    np.testing.assert_allclose(
        about['channel_means'], pixels.mean(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(about['covariance'], covariance, rtol=1e-9)
    values = np.array(about['eigenvalues'])
    vectors = np.array(about['eigenvectors_as_columns'])
    self.assertTrue((np.diff(values) > 0).all())
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        vectors @ np.diag(values) @ vectors.T, covariance, rtol=1e-9
    )

  def test_no_clock_in_the_files(self):
    self.prepare(self.photos)
    for path in self.out.glob('*.npz'):
      with zipfile.ZipFile(path) as file:
        for member in file.infolist():
          self.assertEqual(member.date_time, (1980, 1, 1, 0, 0, 0))

  def test_output(self):
    output = self.prepare(self.photos)
    self.assertIn(f'train      11 images of {self.photos}/train\n', output)
    self.assertIn(f'evaluation 2 images of {self.photos}/val\n', output)
    self.assertIn('train      11 images, 0 rejected, 0.', output)
    self.assertIn(f'--config.dataset.dir={self.out}\n', output)
    self.assertNotIn('says which', output)

  def test_a_terminal_that_cannot_show_a_name(self):
    photos = preparing.write_photos(self.root / 'été', 2)
    result = subprocess.run(
        [
            sys.executable, '-m', 'input_pipeline.prepare',
            f'--source={photos}', f'--output={self.out}',
        ],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {'PYTHONIOENCODING': 'ascii'},
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertIn(r'/\xe9t\xe9', result.stdout)

  def test_as_a_user_types_it(self):
    """In a fresh interpreter; neither JAX nor TensorFlow is waited for."""
    code = (
        'import runpy, sys; sys.modules["jax"] = None; '
        'sys.modules["tensorflow"] = None; '
        'runpy.run_module("input_pipeline.prepare", run_name="__main__")'
    )
    result = subprocess.run(
        [
            sys.executable, '-c', code, f'--source={self.photos}',
            f'--output={self.out}',
        ],
        cwd=ROOT, capture_output=True, text=True,
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    again = self.root / 'again'
    self.prepare(self.photos, out=again)
    self.assert_same_bytes(self.out, again)


class SamplesTest(preparing.PreparingTest):

  def test_images_of_imagenet_chosen_for_trouble(self):
    if not SAMPLES.is_dir():
      self.skipTest(f'{SAMPLES} is not on this machine')
    self.prepare(SAMPLES, '--eval_fraction=0', '--storage=raw')
    about = manifest(self.out)
    self.assertNotIn('evaluation', about['sets'])
    self.assertEqual(about['sets']['train']['images'], 117)
    self.assertEqual((self.out / 'rejected.txt').read_text(), '')
    stored = preparing.load(self.out)
    for index in range(0, 117, 13):
      image = Image.open(SAMPLES / stored.names[index])
      orientation = image.getexif().get(274, 1)
      self.assertIn(orientation, (1, 3, 6, 8))
      # Counter-clockwise; EXIF says what to do clockwise.
      turn = {1: 0, 3: 180, 6: 270, 8: 90}[orientation]
      image = image.convert('RGB').rotate(turn, expand=True)
      side = min(image.size)
      left, top = (image.width - side) / 2, (image.height - side) / 2
      # One axis after the other: Pillow rounds in between.
      columns = image.resize(
          (256, image.height), Image.BICUBIC,
          box=(left, 0, left + side, image.height),
      )
      expected = columns.resize(
          (256, 256), Image.BICUBIC, box=(0, top, 256, top + side)
      )
      np.testing.assert_array_equal(stored.items[index], expected)


class FlagsTest(preparing.PreparingTest):

  @parameterized.parameters(
      ('--quality=0', '--quality is 0: expected 1 to 100'),
      ('--quality=101', '--quality is 101'),
      ('--eval_fraction=1', '--eval_fraction is 1.0: expected'),
      ('--eval_fraction=-0.1', '--eval_fraction is -0.1'),
      ('--workers=0', '--workers is 0: expected at least 1'),
      ('--seed=-1', '--seed is -1: expected at least 0'),
      ('--size=0', '--size is 0: expected 1 to 512'),
      ('--size=513', '--size is 513: expected 1 to 512'),
  )
  def test_bad_value(self, flag, message):
    self.assert_refused(message, '--source=digits', flag)
    self.assertFalse(self.out.exists())

  def test_no_source(self):
    self.assert_refused('--source is not set')

  def test_no_output(self):
    result = run('--source=digits')
    self.assertEqual(result.status, 1)
    self.assertIn('--output must have a value', result.error)

  def test_unknown_storage(self):
    result = run('--source=digits', f'--output={self.out}', '--storage=webp')
    self.assertEqual(result.status, 1)
    self.assertIn('<jpeg|raw>', result.error)

  def test_positional_argument(self):
    result = run('--source=digits', f'--output={self.out}', 'photos')
    self.assertEqual(result.status, 1)
    self.assertIn('unknown argument photos', result.error + result.output)

  @parameterized.parameters('out', '.', 'out/deep')
  def test_output_within_the_source(self, place):
    """It would be a class, then and whenever the command is run again."""
    photos = preparing.write_photos(self.root / 'in', 2)
    before = preparing.snapshot(photos)
    self.assert_refused(
        f'{photos / place} is in the source.*set --output',
        f'--source={photos}', f'--output={photos / place}',
    )
    self.assertEqual(preparing.snapshot(photos), before)

  def test_output_is_a_file(self):
    self.out.write_text('precious')
    self.assert_refused(f'File exists.*{self.out}', '--source=digits')
    self.assertEqual(self.out.read_text(), 'precious')


def png_that_claims(width, height):
  """A PNG file of a few bytes."""
  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  data = zlib.compress(bytes(1000))
  return (
      b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data)
      + chunk(b'IEND', b'')
  )


class FaultsTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    self.photos = self.root / 'in'
    self.good = {}
    # The names as they are, and as lines show them.
    for seed, (name, shown) in enumerate([
        (b'plain.jpg', 'plain.jpg'),
        ('\u00e9t\u00e9 \u65e5\u672c.jpg'.encode(), 'été 日本.jpg'),
        (b'new\nline.jpg', r'new\nline.jpg'),
        (b'car\rriage.jpg', r'car\rriage.jpg'),
        (b'ta\tb.jpg', r'ta\tb.jpg'),
        (b'back\\slash.jpg', r'back\\slash.jpg'),
        (b'by\xffte.jpg', r'by\udcffte.jpg'),
        ('line\u2028separator.jpg'.encode(), r'line\u2028separator.jpg'),
        (b' space .jpg', ' space .jpg'),
    ]):
      self.write(b'ant/' + name, preparing.picture(seed))
      self.good[f'ant/{shown}'] = seed
    self.write(b'newt/0.jpg', preparing.picture(50))
    self.write(b'newt/9.jpg', preparing.picture(51))
    self.good |= {'newt/0.jpg': 50, 'newt/9.jpg': 51}

    whole = io.BytesIO()
    preparing.picture(60, 200, 200).save(whole, 'JPEG')
    half = whole.getvalue()[:len(whole.getvalue()) // 2]
    self.bad = {}
    for name, shown, content, reason in [
        (b'truncated.jpg', 'truncated.jpg', half, 'truncated'),
        (b'empty.jpg', 'empty.jpg', b'', 'it is empty'),
        (b'text.jpg', 'text.jpg', b'hello', NO_IMAGE),
        (b'dot.png', 'dot.png', preparing.picture(0, 1, 1), '1 x 1 pixels'),
        (b'long.jpg', 'long.jpg', preparing.picture(0, 20000, 10),
         '20000 x 10 pixels'),
        (b'bomb.png', 'bomb.png', png_that_claims(20000, 20000),
         'it has 20000 x 20000 pixels, expected at most'),
        (b'bad\t\xfe\n\\.jpg', r'bad\t\udcfe\n\\.jpg', b'', 'it is empty'),
    ]:
      self.write(b'newt/' + name, content)
      self.bad[f'newt/{shown}'] = reason

  def write(self, name, content):
    path = pathlib.Path(os.fsdecode(bytes(self.photos) + b'/' + name))
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
      path.write_bytes(content)
    else:
      content.save(path)

  def lines(self, out=None):
    """{name: reason} of rejected.txt, below the photos."""
    text = ((out or self.out) / 'rejected.txt').read_text('utf-8')
    self.assertTrue(text.endswith('\n'))
    pairs = [line.split('\t') for line in text.split('\n')[:-1]]
    self.assertTrue(all(len(pair) == 2 for pair in pairs), pairs)
    self.assertLen({name for name, _ in pairs}, len(pairs))
    return {
        name.removeprefix(f'{self.photos}/'): reason for name, reason in pairs
    }

  @parameterized.parameters(None, 4)
  def test_the_good_are_prepared_and_the_bad_are_listed(self, shard):
    output = self.prepare(
        self.photos, '--eval_fraction=0', '--storage=raw', shard=shard
    )
    stored = preparing.load(self.out)
    self.assertCountEqual(stored.names, self.good)
    for name, pixels, label in zip(stored.names, stored.items, stored.labels):
      buffer = io.BytesIO()
      preparing.picture(self.good[name]).save(buffer, 'JPEG')
      np.testing.assert_array_equal(pixels, preparing.square(buffer))
      self.assertEqual(label, name.startswith('newt/'))
    rejected = self.lines()
    self.assertCountEqual(rejected, self.bad)
    for name, reason in self.bad.items():
      self.assertIn(reason, rejected[name], name)
    train = manifest(self.out)['sets']['train']
    self.assertEqual((train['images'], train['rejected']), (11, 7))
    self.assertEqual(train['images_of_class'], [9, 2])
    self.assertIn('11 images, 7 rejected', output)
    self.assertIn(f'{self.out}/rejected.txt says which', output)
    with np.load(self.out / 'statistics.npz') as arrays:
      np.testing.assert_allclose(
          arrays['mean_image'], np.mean(stored.items, axis=0), rtol=1e-6
      )

  def test_strict(self):
    self.assert_refused(
        rf'cannot use {self.photos}/newt/bad\\t\\udcfe\\n\\\\.jpg '
        r'\(it is empty\): replace or remove it',
        f'--source={self.photos}', '--eval_fraction=0', '--strict',
    )
    self.assertFalse((self.out / 'manifest.json').exists())

  def test_strict_after_all(self):
    """What was rejected without --strict is not forgotten with it."""
    flags = f'--source={self.photos}', '--eval_fraction=0'
    self.prepare(self.photos, '--eval_fraction=0', '--part=0/1')
    self.assert_refused('was rejected before: .*newt/', *flags, '--strict')
    self.prepare(self.photos, '--eval_fraction=0')
    self.assert_refused('prepared already, and rej', *flags, '--strict')

  def test_neither_file_nor_folder(self):
    path = self.photos / 'ant' / 'pipe.jpg'
    os.mkfifo(path)
    (self.photos / 'ant' / 'link.jpg').symlink_to(self.photos / 'nowhere.jpg')
    output = self.prepare(self.photos, '--eval_fraction=0')
    rejected = self.lines()
    self.assertEqual(rejected['ant/pipe.jpg'], 'it is not a file')
    self.assertLen(rejected, len(self.bad) + 1)
    self.assertIn('1 link(s) that lead nowhere (ant/link.jpg)', output)

  def test_strict_goes_on_when_it_is_mended(self):
    photos = preparing.write_photos(self.root / 'mended', 4)
    whole = self.root / 'whole'
    self.prepare(photos, out=whole, shard=2)
    data = (photos / 'newt/02.jpg').read_bytes()
    (photos / 'newt/02.jpg').write_bytes(b'')
    self.assert_refused(
        'newt/02.jpg', f'--source={photos}', '--strict', shard=2
    )
    (photos / 'newt/02.jpg').write_bytes(data)
    self.prepare(photos, '--strict', shard=2)
    self.assert_same_bytes(self.out, whole)

  def test_what_no_one_may_read(self):
    photos = preparing.write_photos(self.root / 'private', 3)
    (photos / 'newt/01.jpg').chmod(0)
    self.prepare(photos, '--eval_fraction=0', humble=True)
    self.assertEqual(
        (self.out / 'rejected.txt').read_text(),
        f'{photos}/newt/01.jpg\tPermission denied\n',
    )
    self.assertEqual(manifest(self.out)['sets']['train']['images'], 8)

  def test_what_else_there_is_to_tell(self):
    self.write(b'newt/live.MOV', b'a film')
    self.write(b'newt/phone.heic', b'a photo')
    self.write(b'newt/other.heic', b'a photo')
    self.write(b'yak/0.jpg', b'')
    result = run(
        f'--source={self.photos}', f'--output={self.out}', '--eval_fraction=0'
    )
    self.assertEqual(result.status, 0, result.error)
    self.assertIn(
        'left out: 2 .heic (newt/other.heic, newt/phone.heic), 1 .mov '
        '(newt/live.MOV)\n',
        result.output,
    )
    self.assertIn('1 class(es) have no training image: yak', result.output)

  def test_no_good_image(self):
    photos = self.root / 'bad'
    for name in ('ant', 'newt'):
      (photos / name).mkdir(parents=True)
      (photos / name / '0.jpg').write_text('hello')
    self.assert_refused(
        'none of the train images could be used, see '
        f'{self.out}/rejected.txt.*new folder',
        f'--source={photos}',
    )
    self.assertEqual(
        (self.out / 'rejected.txt').read_text(),
        f'{photos}/ant/0.jpg\t{NO_IMAGE}\n'
        f'{photos}/newt/0.jpg\t{NO_IMAGE}\n',
    )
    self.assertFalse((self.out / 'manifest.json').exists())

  def test_a_shard_of_bad_images(self):
    """In the middle, at the end; the images around it keep their places."""
    for storage in ('raw', 'jpeg'):
      photos = preparing.write_photos(self.root / storage, 6, ('ant', 'newt'))
      for name in ('ant/02', 'ant/03', 'newt/04', 'newt/05'):
        (photos / f'{name}.jpg').write_bytes(b'')
      out = self.root / f'{storage}-out'
      self.prepare(
          photos, '--eval_fraction=0', f'--storage={storage}', out=out, shard=2
      )
      shards = manifest(out)['sets']['train']['shards']
      self.assertEqual([s['images'] for s in shards], [2, 0, 2, 2, 2, 0])
      stored = preparing.load(out)
      names = [f'ant/0{i}.jpg' for i in (0, 1, 4, 5)]
      names += [f'newt/0{i}.jpg' for i in (0, 1, 2, 3)]
      self.assertEqual(stored.names, names)
      for item, name in zip(decoded(stored.items), stored.names):
        pixels = preparing.square(photos / name).astype(float)
        self.assertLess(np.abs(item - pixels).mean(), 6)


class Counting(sources.Source):
  """Counts the images that were read and not yet written."""

  def __init__(self, length):
    self.name = 'counting'
    self.class_names = ('a', 'b')
    self._length = length
    self._lock = threading.Lock()
    self._encoded = sources.encode_png(np.full((8, 8, 3), 99, np.uint8))
    self.inside = self.most = 0

  def __len__(self):
    return self._length

  def read(self, index):
    with self._lock:
      self.inside += 1
      self.most = max(self.most, self.inside)
    return self._encoded, index % 2

  def delivered(self, count):
    with self._lock:
      self.inside -= count

  def describe(self, index):
    return f'{index}'

  def fingerprint(self):
    return f'{self._length}'


class PagesTest(preparing.PreparingTest):

  @parameterized.product(
      order=('II', 'MM'), pages=(1, 2, 3), big_tiff=(False, True)
  )
  def test_more_pages(self, order, pages, big_tiff):
    first, *others = [Image.new('RGB', (20, 16), 'red')] * pages
    buffer = io.BytesIO()
    if order == 'II':
      first.save(
          buffer, 'TIFF', save_all=True, append_images=others,
          big_tiff=big_tiff,
      )
      encoded = buffer.getvalue()
    else:  # Which Pillow does not write: directories of one field in a row.
      word, count, number = (8, 'Q', 43) if big_tiff else (4, 'H', 42)
      first, entry = (16, 20) if big_tiff else (8, 12)
      size = struct.calcsize(f'>{count}') + 6 * entry + word
      entries = b''.join(
          struct.pack('>HH', tag, 4)
          + (1).to_bytes(word, 'big')
          + value.to_bytes(4, 'big').ljust(word, b'\0')
          for tag, value in (
              (256, 1), (257, 1), (258, 8), (262, 1), (273, 0), (279, 1)
          )
      )
      encoded = struct.pack('>2sH', b'MM', number)
      encoded += struct.pack('>HHQ', 8, 0, 16) if big_tiff else b'\0\0\0\x08'
      for page in range(1, pages + 1):
        after = 0 if page == pages else first + page * size
        encoded += struct.pack(f'>{count}', 6) + entries
        encoded += after.to_bytes(word, 'big')
    self.assertEqual(decoding.has_more_pages(encoded), pages > 1)

  def test_told(self):
    picture = Image.new('RGB', (20, 16), 'red')
    for name in ('ant', 'newt'):
      (self.root / 'in' / name).mkdir(parents=True)
      picture.save(
          self.root / f'in/{name}/0.tif', save_all=True,
          append_images=[picture] * (name == 'newt'),
      )
    output = self.prepare(self.root / 'in', '--eval_fraction=0')
    self.assertIn(
        'left out   1 file(s) of which only the first page is used '
        '(newt/0.tif)', output,
    )


class ToldTest(preparing.PreparingTest):
  """What a preparation says of its data."""

  def test_copies(self):
    photos = preparing.write_photos(self.root / 'in', 20, ('ant', 'newt'))
    for path in [*photos.rglob('*.jpg')]:
      path.with_stem(f'{path.stem}_copy').write_bytes(path.read_bytes())
    output = self.prepare(photos, '--size=32')
    self.assertRegex(
        output, r'warning: \d of 8 evaluation images are in the training set, '
        r'too \(/.* = /.*\), .*--copies=together'
    )
    self.out = self.root / 'together'
    output = self.prepare(photos, '--size=32', '--copies=together')
    self.assertNotIn('warning', output)
    held_out, train = (
        preparing.load(self.out, name).names for name in ('evaluation', 'train')
    )
    stems = lambda names: {n.replace('_copy', '') for n in names}
    self.assertEmpty(stems(held_out) & stems(train))

  def test_classes(self):
    photos = preparing.write_photos(self.root / 'in', 2)
    (photos / 'ant/x.pdf').write_text('')
    (photos / 'newt/@eaDir').mkdir()
    (photos / 'newt/@eaDir/0.jpg').write_text('')
    output = self.prepare(photos, '--size=32')
    self.assertIn('\nclasses    3: ant, newt, yak\n', output)
    self.assertIn('1 .pdf (ant/x.pdf)', output)
    self.assertIn(f'1 {listing.HIDDEN} (newt/@eaDir)', output)
    self.assertEqual(output.count('left out'), 1)

  def test_evaluation_set_of_one_class(self):
    photos = preparing.write_photos(self.root / 'in', 2)
    preparing.write_picture(self.root / 'new/newt/0.jpg', 9)
    (self.root / 'new/yak').mkdir()
    output = self.prepare(
        photos, '--size=32', f'--eval_source={self.root / "new"}'
    )
    self.assertIn(f'left out: 1 {listing.EMPTY} (yak)', output)
    self.assertEqual(preparing.load(self.out, 'evaluation').labels, [1])


class MemoryTest(preparing.PreparingTest):

  def test_does_not_grow_with_the_set(self):
    """A slow disk: at most a fixed number of images waits for it."""
    merge = writer._Done.merge
    most = []
    for length in (60, 240):
      source = Counting(length)

      def slow_merge(done, other, source=source):
        time.sleep(0.004)
        merge(done, other)
        source.delivered(len(other.labels))

      self.out = self.root / str(length)
      self.out.mkdir()
      with (
          mock.patch.object(writer, '_CHUNK', 2),
          mock.patch.object(writer, '_SHARD', 1000),
          mock.patch.object(writer._Done, 'merge', slow_merge),
      ):
        writer.Preparation(
            {'train': source}, self.out, writer.Settings(), workers=2
        ).run()
      self.assertEqual(source.inside, 0)
      most.append(source.most)
    # Twice as many chunks of 2 as threads, one more that was submitted and one
    # that is being written.
    self.assertLessEqual(max(most), 2 * (2 * 2 + 2))
    self.assertGreater(min(most), 2)


class VerifyTest(preparing.PreparingTest):

  def test_finds_a_flipped_byte_in_each_file(self):
    photos = preparing.write_photos(self.root / 'in', 3)
    (photos / 'ant/bad.jpg').write_bytes(b'')  # For rejected.txt.
    self.prepare(photos, shard=4)
    result = run('--verify', f'--output={self.out}')
    self.assertEqual(result.status, 0, result.error)
    paths = sorted(self.out.iterdir())
    self.assertLen(paths, 3 + 2 * 2 + 2 + 1)
    self.assertIn(f'{len(paths)} files of {self.out} are as', result.output)
    generator = random.Random(0)
    for path in paths:
      data = path.read_bytes()
      # A byte that differs by one bit, at the beginning, anywhere, at the end.
      for place in (0, generator.randrange(len(data)), len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        self.assert_refused(path.name, '--verify')
      path.write_bytes(data)
    self.assertEqual(run('--verify', f'--output={self.out}').status, 0)

  def test_finds_another_number_in_the_manifest(self):
    photos = preparing.write_photos(self.root / 'in', 3)
    self.prepare(photos)
    path = self.out / 'manifest.json'
    text = path.read_text()
    changed = text.replace('"newt"', '"newz"')
    self.assertNotEqual(changed, text)
    path.write_text(changed)
    self.assert_refused('manifest.json is damaged .*copy it again', '--verify')

  def test_missing_file(self):
    self.prepare(preparing.write_photos(self.root / 'in', 3))
    (self.out / 'train.txt').unlink()
    self.assert_refused('train.txt is damaged .*No such file', '--verify')

  def test_unfinished(self):
    photos = preparing.write_photos(self.root / 'in', 3)
    self.prepare(photos, '--part=0/1')
    self.assert_refused('has no manifest.json', '--verify')


if __name__ == '__main__':
  absltest.main()
