"""Sources against files and datasets that the test itself writes."""

import collections
import io
import os
import pathlib
import tarfile
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized
from PIL import Image
from sklearn.datasets import load_digits

from configs import alexnet
from input_pipeline import datasets, preprocessing, sources
from input_pipeline.errors import DataError, ImageError
from input_pipeline.files import listing


def jpeg(number, size=(20, 16)):
  """A JPEG file unlike those of other numbers."""
  buffer = io.BytesIO()
  color = (number % 256, number * 7 % 256, number * 31 % 256)
  Image.new('RGB', size, color).save(buffer, 'JPEG')
  return buffer.getvalue()


def read_all(source):
  return [source.read(i) for i in range(len(source))]


class PhotosBuilder(tfds.core.GeneratorBasedBuilder):
  """Photos of TFDS without a download: 7 to train, 3 to validate."""

  VERSION = tfds.core.Version('1.0.0')
  SKIP_REGISTERING = True

  def others(self):
    """The features besides the image."""
    return {'label': tfds.features.ClassLabel(names=['newt', 'ant', 'yak'])}

  def _info(self):
    image = tfds.features.Image(encoding_format='jpeg')
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({'image': image, **self.others()}),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
        'train': self._generate_examples(range(7)),
        'validation': self._generate_examples(range(7, 10)),
    }

  def _generate_examples(self, numbers):
    for number in numbers:
      example = {'image': io.BytesIO(jpeg(number))}
      for name, feature in self.others().items():
        many = isinstance(feature, tfds.features.Sequence)
        example[name] = [number % 3] if many else number % 3
      yield f'{number:03d}', example


class TinyPhotos(PhotosBuilder):
  """Registered by TFDS as tiny_photos."""


class TinyTested(PhotosBuilder):
  """As MNIST and CIFAR: a test set, and none to validate."""

  def _split_generators(self, dl_manager):
    splits = super()._split_generators(dl_manager)
    return {'train': splits['train'], 'test': splits['validation']}


class TinyNameless(PhotosBuilder):

  def others(self):
    return {'label': tfds.features.ClassLabel(num_classes=3)}


class TinyUnlabelled(PhotosBuilder):

  def others(self):
    return {'quality': tfds.features.ClassLabel(num_classes=3)}


class TinyNumbers(PhotosBuilder):

  def others(self):
    return {'label': tfds.features.Scalar(np.int64)}


class TinyTags(PhotosBuilder):

  def others(self):
    label = tfds.features.ClassLabel(num_classes=3)
    return {'label': tfds.features.Sequence(label)}


class SourceTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)

  def write(self, *paths):
    """Writes a JPEG of its own at each path below the root."""
    for number, path in enumerate(paths):
      (self.root / path).parent.mkdir(parents=True, exist_ok=True)
      (self.root / path).write_bytes(jpeg(number))

  def files(self, source, root=None):
    """{path relative to the root: label}."""
    return {
        str(pathlib.Path(source.describe(i)).relative_to(root or self.root)): (
            source.read(i)[1]
        )
        for i in range(len(source))
    }


class DigitsTest(SourceTest):

  def examples(self, *parts):
    """How often each (pixels, label) occurs in sources."""
    return collections.Counter(
        (np.asarray(Image.open(io.BytesIO(encoded))).tobytes(), label)
        for part in parts
        for encoded, label in read_all(part)
    )

  def test_is_scikit_learns(self):
    parts = datasets.create_sources(alexnet.get_config('digits').dataset, 3)
    self.assertEqual([len(part) for part in parts], [1437, 360])
    digits = load_digits()
    # 16 of its 17 levels are multiples of 17 up to 255; the last is white too.
    levels = np.array([17 * level for level in range(16)] + [255], np.uint8)
    expected = collections.Counter(
        (levels[image.astype(int)].tobytes(), label)
        for image, label in zip(digits.images, digits.target.tolist())
    )
    # Nothing is lost and nothing is in both parts.
    self.assertEqual(self.examples(*parts), expected)
    for part in parts:
      self.assertEqual(tuple(part.class_names), tuple('0123456789'))
      self.assertIsNone(part.directory)
      self.assertEqual(Image.open(io.BytesIO(part.read(0)[0])).format, 'PNG')

  def test_seed_decides_the_split(self):
    first, again, other = (datasets.Digits(False, seed) for seed in (0, 0, 1))
    self.assertEqual(read_all(first), read_all(again))
    self.assertEqual(first.fingerprint(), again.fingerprint())
    self.assertNotEqual(first.fingerprint(), other.fingerprint())
    self.assertNotEqual(
        first.fingerprint(), datasets.Digits(True, 0).fingerprint()
    )
    # 360 of 1,797 at random: 72 are expected in both, with a standard
    # deviation of 7.
    shared = self.examples(first) & self.examples(other)
    self.assertBetween(shared.total(), 40, 110)


class FolderTest(SourceTest):

  def test_labels_are_alphabetical(self):
    self.write('newt/b.jpg', 'yak/a.jpg', 'ant/c.jpg', 'ant/a.jpg')
    folder = sources.open_folder(self.root)
    self.assertEqual(folder.class_names, ('ant', 'newt', 'yak'))
    self.assertEqual(folder.directory, self.root)
    self.assertEqual(
        list(self.files(folder).items()),
        [
            ('ant/a.jpg', 0), ('ant/c.jpg', 0), ('newt/b.jpg', 1),
            ('yak/a.jpg', 2),
        ],
    )
    for i in range(len(folder)):
      data = pathlib.Path(folder.describe(i)).read_bytes()
      self.assertEqual(folder.read(i)[0], data)

  def test_which_files_are_images(self):
    images = [
        'ant/a.JPG', 'ant/b.Jpeg', 'ant/c.PNG', 'ant/deep/er/d.jpeg',
        'newt/ant/e.GIF',
    ]
    others = [
        'ant/notes.txt', 'ant/.f.jpg', 'ant/g.svg', 'ant/jpg', 'readme.jpg',
        '.git/h.jpg',
    ]
    self.write(*images, *others)
    self.assertEqual(
        self.files(sources.open_folder(self.root)),
        dict.fromkeys(images[:4], 0) | {images[4]: 1},
    )

  def test_other_files_are_counted(self):
    self.write(
        'ant/a.jpg', 'ant/b.HEIC', 'ant/deep/c.heic', 'ant/d', 'ant/.e.mov',
        'newt/a.jpg', 'newt/b.mov', 'readme.txt',
    )
    folder = sources.open_folder(self.root)
    self.assertEqual(folder.ignored.counts, {
        '.heic': 2, 'no suffix': 1, '.mov': 1, '.txt': 1, listing.HIDDEN: 1
    })

  def test_hidden_subfolders_are_ignored(self):
    # Desktops and notebooks put copies of images there.
    self.write('ant/a.jpg', 'newt/a.jpg', 'ant/.thumbnails/a.jpg')
    files = self.files(sources.open_folder(self.root))
    self.assertEqual(sorted(files), ['ant/a.jpg', 'newt/a.jpg'])

  def test_a_folder_that_is_named_like_an_image(self):
    """It is searched like any other."""
    self.write(
        'ant/a.jpg', 'ant/b.jpg/c.jpg', 'newt/.d.jpg/e.jpg', 'newt/f.png'
    )
    folder = sources.open_folder(self.root)
    names = [folder.describe(i) for i in range(len(folder))]
    paths = ('ant/a.jpg', 'ant/b.jpg/c.jpg', 'newt/f.png')
    self.assertEqual(names, [str(self.root / path) for path in paths])
    for index in range(len(folder)):
      folder.read(index)

  def test_image(self):
    """Pixels of a folder's images, whole and in part."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    self.write('ant/a.jpg', 'newt/b.jpg')
    image.save(self.root / 'newt/c.png')
    folder = sources.open_folder(self.root)
    whole, label = folder.image(2)
    self.assertEqual(label, 1)
    np.testing.assert_array_equal(whole, pixels[:, 22:278])
    part, label = folder.image(2, preprocessing.Box(5, 30, 224))
    self.assertEqual(label, 1)
    np.testing.assert_array_equal(part, pixels[5:229, 52:276])
    self.assertIsNone(folder.statistics())
    (self.root / 'newt/c.png').write_bytes(b'junk')
    with self.assertRaisesRegex(
        ImageError, rf'cannot use {self.root}/newt/c\.png \(it is not a JPEG'
    ):
      folder.image(2)

  def test_names_that_are_not_text(self):
    self.write('ant/a.jpg', 'newt/a.jpg')
    before = sources.open_folder(self.root)
    odd = os.fsencode(self.root) + b'/newt/\xff\n.jpg'
    pathlib.Path(os.fsdecode(odd)).write_bytes(b'')
    folder = sources.open_folder(self.root)
    self.assertLen(folder, 3)
    self.assertNotEqual(folder.identity(), before.identity())
    self.assertNotEqual(folder.fingerprint(), before.fingerprint())
    with self.assertRaises(ImageError) as caught:
      folder.image(2)
    self.assertIn(r'newt/\udcff\n.jpg (it is empty)', str(caught.exception))

  def test_identity_is_that_of_a_copy(self):
    """Of names and labels: not of the place, sizes or times."""
    paths = 'ant/a.jpg', 'newt/a.jpg', 'newt/b.jpg'
    self.write(*(f'one/{path}' for path in paths))
    self.write('skip/x/y.jpg', *(f'two/{path}' for path in paths))
    one, two = (sources.open_folder(self.root / n) for n in ('one', 'two'))
    self.assertEqual(one.identity(), two.identity())
    self.assertNotEqual(one.fingerprint(), two.fingerprint())
    (self.root / 'two/newt').rename(self.root / 'two/yak')
    renamed = sources.open_folder(self.root / 'two')
    self.assertNotEqual(renamed.identity(), one.identity())
    # The same files with other labels.
    other = sources.open_folder(self.root / 'one', ('newt', 'ant'))
    self.assertNotEqual(other.identity(), one.identity())

  def test_eval_dir_follows_the_training_classes(self):
    for name in ('ant', 'newt', 'yak'):
      self.write(f'train/{name}/0.jpg', f'train/{name}/1.jpg')
    self.write('eval/yak/x.jpg', 'eval/newt/x.jpg')
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.root / 'train')
    config.eval_dir = str(self.root / 'eval')
    train, evaluation = datasets.create_sources(config, 0)
    self.assertLen(train, 6)
    self.assertEqual(
        self.files(evaluation), {'eval/newt/x.jpg': 1, 'eval/yak/x.jpg': 2}
    )
    self.assertEqual(evaluation.class_names, train.class_names)

  def split(self, seed, fraction):
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.root)
    config.eval_fraction = fraction
    return map(self.files, datasets.create_sources(config, seed))

  @parameterized.parameters(
      (0.1, (1, 2, 1)), (0.3, (3, 6, 1)), (0.99, (9, 19, 3))
  )
  def test_split_holds_out_a_share_of_each_class(self, fraction, expected):
    for name, count in (('ant', 10), ('newt', 20), ('yak', 4)):
      self.write(*(f'{name}/{index}.jpg' for index in range(count)))
    everything = self.files(sources.open_folder(self.root))
    train, held_out = self.split(0, fraction)
    counts = collections.Counter(held_out.values())
    self.assertEqual(tuple(counts[label] for label in range(3)), expected)
    self.assertEmpty(train.keys() & held_out.keys())
    self.assertEqual(train | held_out, everything)

  def test_seed_decides_the_split(self):
    for name in ('ant', 'newt'):
      self.write(*(f'{name}/{index:02d}.jpg' for index in range(40)))
    (_, first), (_, again), (_, other) = (
        self.split(seed, 0.25) for seed in (0, 0, 1)
    )
    self.assertEqual(list(first), list(again))
    self.assertNotEqual(set(first), set(other))
    # Not the first or last files of a class.
    self.assertNotIn(
        [path for path in first if path.startswith('ant')],
        ([f'ant/{i:02d}.jpg' for i in range(10)],
         [f'ant/{i:02d}.jpg' for i in range(30, 40)]),
    )

  def test_single_images_may_stay(self):
    self.write('ant/0.jpg', 'newt/0.jpg', 'newt/1.jpg')
    folder = sources.open_folder(self.root)
    train, held_out = sources.split_files(
        folder, 0.5, 0, single_images_stay=True
    )
    self.assertIn('ant/0.jpg', self.files(train))
    self.assertEqual(list(self.files(held_out).values()), [1])
    self.assertEqual(
        self.files(train) | self.files(held_out), self.files(folder)
    )

  def fingerprint(self):
    return sources.open_folder(self.root).fingerprint()

  def test_fingerprint(self):
    self.write('ant/a.jpg', 'ant/b.jpg', 'newt/a.jpg')
    seen = [self.fingerprint()]
    self.assertEqual(self.fingerprint(), seen[0])
    (self.root / 'ant/a.jpg').write_bytes(jpeg(9, (40, 30)))
    seen.append(self.fingerprint())
    (self.root / 'ant/b.jpg').rename(self.root / 'ant/c.jpg')
    seen.append(self.fingerprint())
    (self.root / 'ant/c.jpg').unlink()
    seen.append(self.fingerprint())
    self.assertLen(set(seen), 4)

  def test_fingerprint_of_an_image_of_the_same_size(self):
    self.write('ant/a.jpg', 'newt/a.jpg')
    path = self.root / 'ant/a.jpg'
    before = self.fingerprint()
    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(data[:-3] + b'x' + data[-2:])
    # As if edited a minute later.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 60 * 10**9))
    self.assertEqual(path.stat().st_size, stat.st_size)
    self.assertNotEqual(self.fingerprint(), before)

  def test_fingerprints_of_a_split(self):
    self.write(*(f'{c}/{i}.jpg' for c in ('ant', 'newt') for i in range(9)))
    folder = sources.open_folder(self.root)
    parts = [
        part for seed in (0, 1) for part in sources.split_files(
            folder, 0.3, seed
        )
    ]
    self.assertLen({part.fingerprint() for part in parts}, 4)


class FolderErrorsTest(SourceTest):

  def create(self, **fields):
    config = alexnet.get_config('folder').dataset
    config.update(fields)
    return datasets.create_sources(config, 0)

  def test_no_train_dir(self):
    with self.assertRaisesRegex(DataError, 'set --config.dataset.train_dir'):
      self.create()

  @parameterized.parameters('missing', 'a/0.jpg')
  def test_no_folder(self, name):
    self.write('a/0.jpg')
    with self.assertRaisesRegex(
        DataError, f'{self.root / name} is not a folder: set .*train_dir'
    ):
      self.create(train_dir=str(self.root / name))

  def test_no_eval_folder(self):
    self.write('a/0.jpg', 'b/0.jpg')
    with self.assertRaisesRegex(DataError, 'nowhere is not a folder'):
      self.create(
          train_dir=str(self.root), eval_dir=str(self.root / 'nowhere')
      )

  def test_no_class(self):
    self.write('0.jpg')
    with self.assertRaisesRegex(DataError, r'0 class subfolder.*at least 2'):
      self.create(train_dir=str(self.root))

  def test_one_class(self):
    self.write('newt/0.jpg', '.git/0.jpg')
    with self.assertRaisesRegex(
        DataError, rf'{self.root} has 1 class subfolder.*\(newt\).*at least 2'
    ):
      self.create(train_dir=str(self.root))

  def test_empty_class(self):
    self.write('newt/0.jpg', 'yak/0.txt', 'yak/.0.jpg')
    with self.assertRaisesRegex(DataError, f'{self.root / "yak"} has no image'):
      self.create(train_dir=str(self.root))

  def test_unknown_eval_class(self):
    self.write('train/newt/0.jpg', 'train/yak/0.jpg')
    folders = dict(
        train_dir=str(self.root / 'train'), eval_dir=str(self.root / 'eval')
    )
    self.write('eval/gnu/0.jpg', 'eval/gnu/1.jpg')
    told = (
        r'2 image\(s\) of classes that the training set does not have '
        r'\(gnu/0.jpg, gnu/1.jpg\)'
    )
    unknown = 'has classes that the training set does not have: gnu'
    with self.assertRaisesRegex(DataError, unknown):
      self.create(**folders)
    self.write('eval/yak/0.jpg')  # One of one known class is enough.
    _, evaluation = self.create(**folders)
    self.assertEqual([evaluation.read(i)[1] for i in range(len(evaluation))],
                     [1])
    self.assertRegex(str(evaluation.ignored), told)

  def test_too_few_to_split(self):
    self.write('newt/0.jpg', 'newt/1.jpg', 'yak/0.jpg')
    with self.assertRaisesRegex(
        DataError, f'class yak of {self.root} has one image.*eval_dir'
    ):
      self.create(train_dir=str(self.root))

  @parameterized.parameters(0.0, 1.0, -0.1, 10.0)
  def test_eval_fraction(self, fraction):
    self.write('newt/0.jpg', 'newt/1.jpg', 'yak/0.jpg', 'yak/1.jpg')
    with self.assertRaisesRegex(DataError, f'eval_fraction is {fraction}'):
      self.create(train_dir=str(self.root), eval_fraction=fraction)

  def not_as_root(self):
    """Root reads everything: inside, somebody else does not."""
    if os.geteuid() == 0:
      for path in (self.root, *self.root.rglob('*')):
        os.chown(path, 65534, 65534)
      self.addCleanup(os.seteuid, 0)
      os.seteuid(65534)

  def test_permission(self):
    self.write('newt/0.jpg', 'yak/0.jpg')
    folder = sources.open_folder(self.root)
    self.not_as_root()
    (self.root / 'yak/0.jpg').chmod(0)
    with self.assertRaisesRegex(ImageError, 'yak/0.jpg.*Permission denied'):
      folder.read(1)

  def test_permission_of_a_folder(self):
    self.write('newt/0.jpg', 'newt/deep/0.jpg', 'yak/0.jpg')
    self.not_as_root()
    (self.root / 'newt/deep').chmod(0)
    self.addCleanup((self.root / 'newt/deep').chmod, 0o700)
    with self.assertRaisesRegex(
        DataError, 'cannot list .*newt/deep .Permission denied.*permissions'
    ):
      self.create(train_dir=str(self.root))

  @parameterized.parameters(
      (PermissionError(13, 'Permission denied'), ImageError, 'cannot use'),
      # Of the disk, which is not one image's fault.
      (OSError(5, 'Input/output error'), DataError, 'cannot read.*check the'),
      (OSError(116, 'Stale file handle'), DataError, 'cannot read.*network'),
  )
  def test_a_file_or_its_disk(self, error, kind, message):
    self.write('newt/0.jpg', 'yak/0.jpg')
    folder = sources.open_folder(self.root)
    with (
        absltest.mock.patch.object(
            pathlib.Path, 'read_bytes', side_effect=error
        ),
        self.assertRaisesRegex(DataError, message) as caught,
    ):
      folder.read(1)
    self.assertIs(type(caught.exception), kind)
    self.assertIn(str(self.root / 'yak/0.jpg'), str(caught.exception))
    self.assertIn(error.strerror, str(caught.exception))

  def test_folder_that_cannot_be_listed(self):
    """As above for root, to whom nothing is forbidden."""
    self.write('newt/0.jpg', 'newt/deep/0.jpg', 'yak/0.jpg')
    scandir = os.scandir

    def forbidden(path):
      if str(path).endswith('deep'):
        raise PermissionError(13, 'Permission denied', str(path))
      return scandir(path)

    with (
        absltest.mock.patch.object(os, 'scandir', forbidden),
        self.assertRaisesRegex(
            DataError, 'cannot list .*newt/deep .Permission denied.*permissions'
        ),
    ):
      self.create(train_dir=str(self.root))

  def test_file_that_went_away(self):
    self.write('newt/0.jpg', 'yak/0.jpg')
    folder = sources.open_folder(self.root)
    (self.root / 'yak/0.jpg').unlink()
    folder.read(0)
    with self.assertRaisesRegex(ImageError, 'yak/0.jpg.*No such file'):
      folder.read(1)


  def test_disk_that_went_away(self):
    """Not a fault of one image, of which more would follow."""
    self.write('newt/0.jpg', 'yak/0.jpg')
    folder = sources.open_folder(self.root)
    self.root.rename(f'{self.root}-elsewhere')
    self.addCleanup(pathlib.Path(f'{self.root}-elsewhere').rename, self.root)
    with self.assertRaisesRegex(DataError, 'check the disk') as caught:
      folder.read(1)
    self.assertNotIsInstance(caught.exception, ImageError)


  def test_folders_of_sets(self):
    self.write('train/ant/0.jpg', 'train/newt/0.jpg', 'Val/ant/0.jpg')
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.root)
    with self.assertRaisesRegex(DataError, 'Val, train, which are sets'):
      datasets.create_sources(config, 0)


class TFDSTest(SourceTest):

  def create(self, name, **fields):
    config = alexnet.get_config(name).dataset
    config.dir = str(self.root)
    config.update(fields)
    return datasets.create_sources(config, 0)

  def test_by_name(self):
    train, evaluation = self.create('tiny_photos')
    for source, numbers in ((train, range(7)), (evaluation, range(7, 10))):
      self.assertLen(source, len(numbers))
      # TFDS has an order of its own.
      self.assertCountEqual(
          read_all(source),
          [(jpeg(number), number % 3) for number in numbers],
      )
      self.assertEqual(tuple(source.class_names), ('newt', 'ant', 'yak'))
    self.assertEqual(train.directory, self.root / 'tiny_photos/1.0.0')
    self.assertNotEqual(train.fingerprint(), evaluation.fingerprint())
    self.assertIn('tiny_photos', train.describe(5))
    self.assertIn('5', train.describe(5))

  def test_no_validation_split(self):
    _, evaluation = self.create('tiny_tested')
    self.assertLen(evaluation, 3)
    self.assertIn('(test)', evaluation.name)
    with self.assertRaisesRegex(DataError, "eval_split is 'dev', but"):
      self.create('tiny_tested', eval_split='dev')

  def test_a_second_opening_has_the_same_order(self):
    first, again = (self.create('tiny_photos')[0] for _ in range(2))
    self.assertEqual(read_all(first), read_all(again))
    self.assertEqual(first.fingerprint(), again.fingerprint())

  def test_parts_of_splits(self):
    train, evaluation = self.create(
        'tiny_photos', train_split='train[:5]', eval_split='train[5:]'
    )
    self.assertLen(train, 5)
    self.assertCountEqual(
        read_all(train) + read_all(evaluation),
        [(jpeg(number), number % 3) for number in range(7)],
    )

  def test_sum_of_splits(self):
    # https://www.tensorflow.org/datasets/splits
    train, _ = self.create('tiny_photos', train_split='train+validation')
    self.assertLen(train, 10)

  def test_classes_without_names(self):
    train, _ = self.create('tiny_nameless')
    self.assertEqual(tuple(train.class_names), ('0', '1', '2'))

  @parameterized.product(
      field=('train_split', 'eval_split'),
      split=('test', 'test[:10%]', 'train[abc]'),
  )
  def test_bad_split(self, field, split):
    with self.assertRaises(DataError) as caught:
      self.create('tiny_photos', **{field: split})
    message = str(caught.exception)
    self.assertIn(f"dataset.{field} is '{split}'", message)
    self.assertIn('validation', message)

  def test_no_label(self):
    with self.assertRaisesRegex(
        DataError, "'tiny_unlabelled' is not for image.*'quality'"
    ):
      self.create('tiny_unlabelled')

  @parameterized.parameters('tiny_numbers', 'tiny_tags')
  def test_label_that_is_no_class(self, name):
    with self.assertRaisesRegex(DataError, f"'{name}' is not for image"):
      self.create(name)

  def test_prepared_in_a_format_without_random_access(self):
    # What TFDS does when it is left alone.
    tfds.builder('tiny_photos', data_dir=self.root).download_and_prepare()
    with self.assertRaises(DataError) as caught:
      self.create('tiny_photos')
    message = str(caught.exception)
    self.assertRegex(message, '(?i)tfrecord')
    self.assertIn(str(self.root), message)
    self.assertNotIn('is not known', message)

  def test_unknown_name(self):
    with self.assertRaisesRegex(
        DataError, "'nonsense_dataset' is not known.*'digits', 'folder'"
    ):
      self.create('nonsense_dataset')


class ImageNet2012Test(SourceTest):
  """TFDS's own builder, fed with tiny archives."""

  TRAIN, VALIDATION = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'

  def setUp(self):
    super().setUp()
    self.manual = self.root / 'downloads/manual'

  def create(self):
    config = alexnet.get_config('imagenet2012').dataset
    config.dir = str(self.root)
    return datasets.create_sources(config, 0)

  def archive(self, **members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
      for name, data in members.items():
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()

  def write_train(self):
    self.manual.mkdir(parents=True, exist_ok=True)
    synsets = {
        # The first two classes.
        'n01440764.tar': self.archive(**{'n01440764_0.JPEG': jpeg(0)}),
        'n01443537.tar': self.archive(**{'n01443537_0.JPEG': jpeg(1)}),
    }
    (self.manual / self.TRAIN).write_bytes(self.archive(**synsets))

  def write_validation(self):
    self.manual.mkdir(parents=True, exist_ok=True)
    images = {
        f'ILSVRC2012_val_{i + 1:08d}.JPEG': jpeg(10 + i) for i in range(3)
    }
    (self.manual / self.VALIDATION).write_bytes(self.archive(**images))

  def check(self, train, evaluation):
    self.assertCountEqual(read_all(train), [(jpeg(0), 0), (jpeg(1), 1)])
    # The challenge's labels: n01751748, n09193705 and n02105855.
    self.assertCountEqual(
        read_all(evaluation),
        [(jpeg(10), 65), (jpeg(11), 970), (jpeg(12), 230)],
    )
    self.assertLen(train.class_names, 1000)

  def test_missing(self):
    with self.assertRaises(DataError) as caught:
      self.create()
    message = str(caught.exception)
    for part in (self.TRAIN, self.VALIDATION, str(self.manual), 'dataset.dir'):
      self.assertIn(part, message)

  def test_archives_where_the_message_says(self):
    self.write_train()
    self.write_validation()
    self.check(*self.create())

  @parameterized.parameters('train', 'validation')
  def test_one_archive_is_missing(self, first):
    """TFDS alone would keep a dataset without a training split for good."""
    writers = [self.write_train, self.write_validation]
    if first == 'validation':
      writers.reverse()
    writers[0]()
    with self.assertRaises(DataError) as caught:
      self.create()
    missing = self.VALIDATION if first == 'train' else self.TRAIN
    self.assertIn(missing, str(caught.exception))
    self.assertIn(str(self.manual), str(caught.exception))
    writers[1]()
    self.check(*self.create())

  def test_damaged_archive(self):
    self.write_validation()
    (self.manual / self.TRAIN).write_bytes(b'half' * 500)
    with self.assertRaises(DataError) as caught:
      self.create()
    # It is there; what is wrong with it is what helps.
    message = str(caught.exception)
    self.assertNotIn('is not on this machine', message)
    self.assertIn(type(caught.exception.__cause__).__name__, message)




if __name__ == '__main__':
  absltest.main()
