"""What can be prepared: folders, archives, ImageNet's own, and their labels.

All of it is written by the test; files are found again byte by byte.
"""

import gzip
import io

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized
from PIL import Image

from configs import alexnet
from input_pipeline import datasets
from input_pipeline.sources import UNKNOWN_CLASS
from tests import preparing
from tests.packing import (
  CLASSES,
  JUNK,
  SETS,
  WRITERS,
  OriginsTest,
  below,
  jpeg,
  members,
  tar,
  zipped,
)

TRAIN, VALIDATION = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
# The labels of its first three validation images.
FIRST_LABELS = ('n01751748', 'n09193705', 'n02105855')
# Sorted, as the classes are.
SYNSETS = sorted(FIRST_LABELS)


class FolderTest(OriginsTest):

  def test_classes(self):
    train, evaluation = self.open(
        self.write('in', CLASSES), eval_fraction=0
    )
    self.assert_has(train, CLASSES)
    self.assertIsNone(evaluation)

  @parameterized.product(
      train=('train', 'training', 'Train'),
      evaluation=('val', 'valid', 'validation', 'eval', 'evaluation', 'test',
                  'Test'),
      archive=(False, True),
  )
  def test_sets(self, train, evaluation, archive):
    files = {
        path.replace('train/', f'{train}/').replace('val/', f'{evaluation}/'):
        data for path, data in SETS.items()
    }
    if archive:
      source = self.write('in.tar', tar(below('photos', files)))
    else:
      source = self.write('in', files)
    sets = self.open(source)
    for one, name in zip(sets, (train, evaluation)):
      content = {
          path if path.startswith(name) else f'{name}/{path}': value
          for path, value in self.content(one).items()
      }
      expected = {
          path: (data, path.split('/')[1])
          for path, data in files.items() if path.startswith(f'{name}/')
      }
      self.assertEqual(content, expected)
      self.assertEqual(one.class_names, ('ant', 'newt', 'yak'))

  def test_of_several_evaluation_sets_val_counts(self):
    files = SETS | members('test/ant/7.jpg', 'test/yak/7.jpg', first=50)
    _, evaluation = self.open(self.write('in', files))
    self.assert_has(
        evaluation, members('ant/1.jpg', 'yak/1.jpg', first=3),
        ('ant', 'newt', 'yak'),
    )

  @parameterized.parameters(False, True)
  def test_a_class_of_trains(self, archive):
    """As in CIFAR-100; it is no set, having no classes in it."""
    files = members('bus/0.jpg', 'car/0.jpg', 'train/0.jpg', 'train/1.jpg')
    source = (
        self.write('in.zip', zipped(files)) if archive
        else self.write('in', files)
    )
    train, _ = self.open(source, eval_fraction=0)
    self.assert_has(train, files, ('bus', 'car', 'train'))

  def test_training_set_without_an_evaluation_set(self):
    """A part of it is held out; folders without images are told."""
    files = members(*(f'train/{c}/{i}.jpg' for c in 'ab' for i in range(10)))
    source = self.write('in', files | {'docs/x/notes.txt': b'', 'x.csv': b''})
    train, evaluation = self.open(source)
    self.assertEqual((len(train), len(evaluation)), (18, 2))
    self.assertEqual(train.class_names, ('a', 'b'))
    self.assertEqual(
        train.ignored.counts, {'folder(s) beside the sets': 1, '.csv': 1}
    )

  @parameterized.product(
      beside=('docs/x/figure.png', 'docs/figure.png', 'bus/0.jpg'),
      archive=(False, True),
  )
  def test_sets_beside_other_folders(self, beside, archive):
    files = SETS | members(beside, first=90)
    source = (
        self.write('in.zip', zipped(files)) if archive
        else self.write('in', files)
    )
    self.assert_message(
        f"has the folder.s. train, val, which look like sets, and beside them "
        f"{beside.split('/')[0]}, .*--eval_source.*move the others",
        source,
    )

  @parameterized.product(
      files=(
          ('ant/0.jpg', 'yak/0.jpg', 'val/ant/0.jpg', 'val/yak/0.jpg'),
          ('ant/0.jpg', 'yak/0.jpg', 'train/ant/0.jpg', 'train/yak/0.jpg'),
          ('val/ant/0.jpg', 'val/yak/0.jpg', 'test/ant/0.jpg'),
          ('val/0.jpg', 'test/0.jpg'),
      ),
      archive=(False, True),
  )
  def test_sets_that_are_no_classes(self, files, archive):
    beside = 'ant, yak, which' if 'ant/0.jpg' in files else 'no training set'
    files = members(*files)
    source = (
        self.write('in.zip', zipped(files)) if archive
        else self.write('in', files)
    )
    self.assert_message(f'which look like sets, .*beside them {beside}', source)

  @parameterized.parameters(False, True)
  def test_a_class_of_kinds_of_trains(self, archive):
    """A set by its name and its folders; a class by those beside it."""
    files = members(
        'bus/0.jpg', 'car/0.jpg', 'train/steam/0.jpg', 'train/diesel/1.jpg'
    )
    source = (
        self.write('in.tar', tar(files)) if archive
        else self.write('in', files)
    )
    train, _ = self.open(source, eval_fraction=0)
    self.assertEqual(train.class_names, ('bus', 'car', 'train'))
    self.assertLen(train, 4)

  def test_eval_source(self):
    train, evaluation = self.open(
        self.write('in', CLASSES),
        eval_source=self.write('other', members('yak/8.jpg', 'ant/9.jpg')),
    )
    self.assert_has(train, CLASSES)
    self.assert_has(
        evaluation, members('yak/8.jpg', 'ant/9.jpg'), ('ant', 'newt', 'yak')
    )

  @parameterized.product(
      lead=('', 'photos/'), inner=('', 'deep/'), suffix=(None, '.tar', '.zip')
  )
  def test_evaluation_set_of_one_class(self, lead, inner, suffix):
    files = members(f'{lead}newt/{inner}8.jpg')
    if suffix is None:
      lead_folder = self.write('other', files) / lead
      options = dict(eval_source=lead_folder)
    else:
      options = dict(
          eval_source=self.write(f'other{suffix}', WRITERS[suffix](files))
      )
    _, evaluation = self.open(self.write('in', CLASSES), **options)
    self.assertEqual([e.label for e in evaluation.entries], [1])
    self.assertEqual(evaluation.class_names, ('ant', 'newt', 'yak'))

  def test_eval_source_counts_more_than_a_folder_of_the_source(self):
    files = SETS | {'val/broken/notes.txt': b'no image, no class'}
    _, evaluation = self.open(
        self.write('in', files),
        eval_source=self.write('other', members('yak/8.jpg', 'ant/9.jpg')),
    )
    self.assertLen(evaluation, 2)

  def test_digits(self):
    train, evaluation = self.open('digits', seed=3)
    expected = datasets.create_sources(alexnet.get_config('digits').dataset, 3)
    for one, other in zip((train, evaluation), expected):
      self.assertEqual(one.read(5), other.read(5))
      self.assertEqual(one.fingerprint(), other.fingerprint())
    self.assertEqual((len(train), len(evaluation)), (1437, 360))


class HoldOutTest(OriginsTest):

  def setUp(self):
    super().setUp()
    paths = [f'{c}/{i:02d}.jpg' for c in ('ant', 'newt') for i in range(20)]
    self.files = members(*paths)
    self.photos = self.write('in', self.files)

  def folder(self, seed, fraction):
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.photos)
    config.eval_fraction = fraction
    return datasets.create_sources(config, seed)

  @parameterized.product(
      seed=(0, 7), fraction=(0.1, 0.35), suffix=(None, '.tar', '.zip')
  )
  def test_is_that_of_a_run_on_the_folder(self, seed, fraction, suffix):
    source = self.photos
    if suffix:
      source = self.write(f'x{suffix}', WRITERS[suffix](self.files))
    sets = self.open(source, seed=seed, eval_fraction=fraction)
    for one, other in zip(sets, self.folder(seed, fraction)):
      self.assertEqual(list(self.content(one)), list(self.content(other)))
    self.assertLen(sets[1], round(2 * 20 * fraction))

  def test_seeds_differ(self):
    held_out = [
        list(self.content(self.open(self.photos, seed=seed)[1]))
        for seed in (0, 1)
    ]
    self.assertNotEqual(*held_out)

  def test_a_single_image_stays(self):
    self.write('in/yak/0.jpg', jpeg(99))
    train, evaluation = self.open(self.photos)
    self.assertIn('yak/0.jpg', self.content(train))
    self.assertEqual((len(train), len(evaluation)), (37, 4))
    self.assertEqual(evaluation.class_names, ('ant', 'newt', 'yak'))

  def test_nothing_but_single_images(self):
    single = self.write('single', members('ant/0.jpg', 'newt/0.jpg'))
    train, evaluation = self.open(single)
    self.assertLen(train, 2)
    self.assertIsNone(evaluation)


def image_name(number):
  return f'ILSVRC2012_val_{number:08d}.JPEG'


class ImageNetCase(OriginsTest):
  """Archives with the names and the structure of the real ones."""

  def setUp(self):
    super().setUp()
    self.train = members(
        *(f'{wnid}/{wnid}_{i}.JPEG' for wnid in SYNSETS for i in (10, 2))
    )
    self.val = members(*map(image_name, (1, 2, 3)), first=100)
    self.place = self.root / 'imagenet'

  def write_train(self):
    synsets = {
        f'{wnid}.tar': tar({
            path.split('/')[1]: data
            for path, data in self.train.items() if path.startswith(wnid)
        })
        # Their order is nobody's.
        for wnid in FIRST_LABELS
    }
    return self.write(f'imagenet/{TRAIN}', tar(synsets))

  def write_val(self, files=None):
    return self.write(f'imagenet/{VALIDATION}', tar(files or self.val))

  def devkit(self, truth='2\n2\n1\n', meta=None, name='ILSVRC2012_devkit_t12'):
    if meta is None:
      fields = [
          ('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('words', 'O'),
          ('gloss', 'O'), ('num_children', 'O'), ('children', 'O'),
          ('wordnet_height', 'O'), ('num_train_images', 'O'),
      ]
      synsets = np.zeros((4, 1), fields)
      # Numbers that are not in the order of the names, and an inner node.
      rows = [*zip((3, 2, 1), reversed(SYNSETS)), (4, 'n00001740')]
      for row, (number, wnid) in zip(synsets[:, 0], rows):
        row['ILSVRC2012_ID'] = np.float64(number)
        row['WNID'] = wnid
        row['words'] = 'kit fox, Vulpes macrotis'
        row['gloss'] = 'small grey fox'
        row['num_children'] = np.float64(2 * (number == 4))
        row['children'] = np.array([[1, 2]] if number == 4 else [[]])
        row['wordnet_height'] = np.float64(number == 4)
        row['num_train_images'] = np.float64(1300)
      buffer = io.BytesIO()
      scipy.io.savemat(buffer, {'synsets': synsets})
      meta = buffer.getvalue()
    files = {
        'readme.txt': b'hello', 'data/meta.mat': meta,
        'data/ILSVRC2012_validation_ground_truth.txt': truth.encode(),
    }
    files = {path: data for path, data in files.items() if data}
    return self.write(f'{name}.tar.gz', gzip.compress(tar(below(name, files))))


class ImageNetTest(ImageNetCase):

  def assert_is_imagenet(self, train, evaluation, labels=FIRST_LABELS, **kinds):
    self.assert_has(train, self.train)
    self.assertEqual(
        self.content(evaluation),
        {
            path: (data, label)
            for (path, data), label in zip(self.val.items(), labels)
        },
    )
    self.assertEqual(evaluation.class_names, train.class_names)

  @parameterized.parameters('folder', 'archive')
  def test_archives(self, given):
    archive = self.write_train()
    self.write_val()
    source = archive if given == 'archive' else self.place
    self.assert_is_imagenet(*self.open(source))

  def test_prepared(self):
    self.write_train()
    self.write_val()
    self.prepare(self.place)
    train, evaluation = (
        preparing.load(self.out, name) for name in ('train', 'evaluation')
    )
    self.assertEqual(
        train.names, sorted(self.train)
    )
    self.assertEqual(train.labels, [0, 0, 1, 1, 2, 2])
    # n01751748, n09193705, n02105855 among them in alphabetical order.
    self.assertEqual(evaluation.labels, [0, 2, 1])
    self.assertEqual(preparing.manifest(self.out)['class_names'], SYNSETS)

  def test_no_validation_archive(self):
    self.write_train()
    self.assert_message(f'{VALIDATION} does not exist', self.place)

  def test_class_folders_and_a_flat_validation_folder(self):
    source = self.write('train', self.train)
    held_out = self.write('val', self.val)
    self.assert_is_imagenet(*self.open(source, eval_source=held_out))

  def test_flat_folders_may_have_other_files(self):
    source = self.write('train', self.train)
    held_out = self.write('val', self.val | {
        'readme.txt': b'', '.hidden.JPEG': b'', '.cache/x.JPEG': b'',
    })
    self.assert_is_imagenet(*self.open(source, eval_source=held_out))

  @parameterized.parameters(False, True)
  def test_the_layout_of_kaggle(self, archive):
    """CLS-LOC/train with classes, val and test without."""
    files = below('train', self.train) | below('val', self.val)
    files |= below('test', members('ILSVRC2012_test_00000001.JPEG'))
    if archive:
      source = self.write('x.tar', tar(below('ILSVRC/Data/CLS-LOC', files)))
      self.train = below('train', self.train)
      self.val = below('val', self.val)
    else:
      source = self.write('CLS-LOC', files)
    self.assert_is_imagenet(*self.open(source))

  def test_some_of_the_validation_images(self):
    """Labels go by the number in the name, not by the place."""
    source = self.write('train', self.train)
    del self.val[image_name(2)]
    held_out = self.write('val.tar', tar(self.val))
    self.assert_is_imagenet(
        *self.open(source, eval_source=held_out),
        labels=(FIRST_LABELS[0], FIRST_LABELS[2]),
    )

  LABELS = (SYNSETS[1], SYNSETS[1], SYNSETS[0])

  @parameterized.product(
      archive=(False, True), text=('{}\n{}\n{}\n', '{}\n\n {} \r\n{}')
  )
  def test_labels_in_a_text_file(self, archive, text):
    source = self.write('train', self.train)
    held_out = (
        self.write('val.tar', tar(self.val)) if archive
        else self.write('val', self.val)
    )
    labels = self.write('labels.txt', text.format(*self.LABELS))
    sets = self.open(source, eval_source=held_out, eval_labels=labels)
    self.assert_is_imagenet(*sets, labels=self.LABELS)

  def test_labels_with_spaces_and_any_names(self):
    source = self.write('in', members('red panda/0.jpg', 'yak/0.jpg'))
    held_out = self.write('flat', members('b.jpg', 'a.png', 'c.jpeg'))
    labels = self.write('labels.txt', 'yak\nred panda\nred panda\n')
    _, evaluation = self.open(
        source, eval_source=held_out, eval_labels=labels
    )
    self.assertEqual(
        {path: name for path, (_, name) in self.content(evaluation).items()},
        {'a.png': 'yak', 'b.jpg': 'red panda', 'c.jpeg': 'red panda'},
    )

  @parameterized.parameters(False, True)
  def test_development_kit(self, archive):
    source = self.write('train', self.train)
    held_out = (
        self.write('val.tar', tar(self.val)) if archive
        else self.write('val', self.val)
    )
    sets = self.open(source, eval_source=held_out, eval_labels=self.devkit())
    self.assert_is_imagenet(*sets, labels=self.LABELS)

  def test_labels_of_a_folder_of_the_source(self):
    source = self.write(
        'x', below('train', self.train) | below('val', self.val)
    )
    sets = self.open(source, eval_labels=self.devkit())
    self.assert_is_imagenet(*sets, labels=self.LABELS)


class LabelErrorsTest(ImageNetCase):

  def assert_labels(self, message, labels):
    source = self.write('train', self.train)
    held_out = self.write('val', self.val)
    self.assert_message(
        message, source, eval_source=held_out, eval_labels=labels
    )

  @parameterized.parameters(
      ('', 0), ('yak\nyak\n', 2), ('yak\n' * 4, 4)
  )
  def test_wrong_number(self, text, count):
    labels = self.write('labels.txt', text)
    self.assert_labels(
        f'{labels} has {count} labels, but there are 3 images', labels
    )

  def test_wrong_number_in_the_kit(self):
    self.assert_labels('has 2 labels, but there are 3', self.devkit('1\n2\n'))

  def test_classes_that_are_not_known(self):
    self.assert_labels(
        'classes that the training set does not have: okapi',
        self.write('labels.txt', f'{SYNSETS[0]}\nokapi\n{SYNSETS[1]}\n'),
    )

  def test_missing(self):
    self.assert_labels(
        'cannot read the labels .*none.txt .*No such file', 'none.txt'
    )

  def test_no_text(self):
    self.assert_labels(
        'cannot read the labels .*UnicodeDecodeError',
        self.write('labels.txt', b'\xff\xfe\x00'),
    )

  def test_bad_kits(self):
    for name, options in {
        'numbers': dict(truth='1\n9\n1\n'),
        'words': dict(truth='a\nb\nc\n'),
        'meta': dict(meta=b'garbage' * 50),
        'nothing': dict(truth=''),
    }.items():
      with self.subTest(name):
        self.assert_labels(
            f'cannot read the labels .*{name}.tar.gz',
            self.devkit(name=name, **options),
        )

  def test_garbage_for_a_kit(self):
    self.assert_labels(
        'cannot read the labels .*kit.tar.gz',
        self.write('kit.tar.gz', b'garbage'),
    )
    self.assert_labels(
        'cannot read the labels .*kit.tar.gz',
        self.write('kit.tar.gz', gzip.compress(tar({}))),
    )

  @parameterized.parameters('a.jpg', image_name(0), image_name(50001))
  def test_unknown_images_without_labels(self, name):
    source = self.write('train', self.train)
    held_out = self.write('val', self.val | {name: jpeg(0)})
    self.assert_message(
        f'{name} is not of ImageNet-2012: give the labels with --eval_labels',
        source, eval_source=held_out,
    )

  def test_a_training_set_of_other_classes(self):
    source = self.write('in', CLASSES)
    self.assert_message(
        f'{VALIDATION} has classes .*not have: n01751748', source,
        eval_source=self.write_val(),
    )

  def test_labels_of_nothing(self):
    source = self.write('in', CLASSES)
    labels = self.write('labels.txt', 'ant\n')
    self.assert_message(
        'no evaluation set for --eval_labels', source,
        eval_labels=labels,
    )


class ErrorsTest(OriginsTest):

  def test_nothing_there(self):
    self.assert_message(
        "nowhere does not exist: expected a folder, an archive, 'digits'",
        self.root / 'nowhere',
    )
    self.assert_message(
        'nowhere.tar does not exist', self.write('in', CLASSES),
        eval_source='nowhere.tar',
    )

  @parameterized.parameters('x.rar', 'x.jpg', 'x.7z')
  def test_not_an_archive(self, name):
    path = self.write(name, jpeg(0))
    self.assert_message(f'{path} is neither a folder nor an archive', path)

  @parameterized.parameters('.tar', '.zip')
  def test_no_image(self, suffix):
    path = self.write(f'x{suffix}', WRITERS[suffix](JUNK))
    self.assert_message(f'{path} has no image file', path)

  @parameterized.product(
      paths=(('0.jpg', '1.jpg'), ('ant/0.jpg', 'ant/1.jpg'),
             ('train/ant/0.jpg', 'val/ant/1.jpg', 'val/newt/1.jpg')),
      archive=(True, False),
  )
  def test_too_few_classes(self, paths, archive):
    files = members(*paths)
    source = (
        self.write('in.tar', tar(files)) if archive
        else self.write('in', files)
    )
    self.assert_message(r'has [01] class .*at least 2', source)

  @parameterized.product(archive=(True, False), flat=(True, False))
  def test_evaluation_classes_that_are_not_known(self, archive, flat):
    """An error if none is known; else the others are left out and told."""
    held_out = members('okapi/0.jpg', 'gnu/0.jpg')
    options = self.held_out(held_out, archive, flat)
    self.assert_message(
        'classes that the training set does not have: gnu, okapi', **options
    )
    held_out = members('okapi/deep/0.jpg', 'ant/0.jpg', first=90)
    _, evaluation = self.open(**self.held_out(held_out, archive, flat))
    self.assertEqual([entry.label for entry in evaluation.entries], [0])
    self.assertEqual(evaluation.ignored.counts, {UNKNOWN_CLASS: 1})
    self.assertIn('okapi/deep/0.jpg', str(evaluation.ignored))

  def held_out(self, held_out, archive, flat):
    name = next(iter(held_out)).replace('/', '-')
    if flat:
      return dict(
          source=self.write('in', CLASSES),
          eval_source=self.write(f'{name}.tar', tar(held_out)) if archive
          else self.write(name, held_out),
      )
    files = below('train', CLASSES) | below('val', held_out)
    return dict(
        source=self.write(f'{name}.tar', tar(files)) if archive
        else self.write(name, files)
    )

  def test_empty_evaluation_folder(self):
    (self.root / 'val').mkdir()
    self.assert_message(
        f'{self.root}/val has no image file', self.write('in', CLASSES),
        eval_source='val',
    )

  @parameterized.parameters('digits', 'tfds:tiny_origins')
  def test_an_evaluation_set_of_its_own(self, source):
    self.assert_message(
        f"'{source}' has an evaluation set of its own", source,
        eval_source='val',
    )

  @parameterized.parameters(
      'nowhere', 'x.rar', 'garbage.tar', 'garbage.zip', 'garbage.tar.gz',
      'truncated.tar', 'one', 'empty',
  )
  def test_one_message_by_the_command(self, name):
    for path in ('x.rar', 'garbage.tar', 'garbage.zip', 'garbage.tar.gz'):
      self.write(path, b'garbage' * 300)
    self.write('truncated.tar', tar(CLASSES)[:1500])
    self.write('one', members('ant/0.jpg'))
    (self.root / 'empty').mkdir()
    self.assert_refused(f'{self.root}/{name}', f'--source={self.root}/{name}')


class TinyOrigins(tfds.core.GeneratorBasedBuilder):
  """Registered as tiny_origins: 7 to train, 3 to validate, 2 to test."""

  VERSION = tfds.core.Version('1.0.0')
  SKIP_REGISTERING = False

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(names=['newt', 'ant', 'yak']),
        }),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    bounds = {'train': (0, 7), 'validation': (7, 10), 'test': (10, 12)}
    return {
        name: self._generate_examples(range(*ends))
        for name, ends in bounds.items()
    }

  def _generate_examples(self, numbers):
    for number in numbers:
      yield str(number), {
          'image': io.BytesIO(jpeg(number)), 'label': number % 3
      }


class TFDSTest(OriginsTest):

  def read(self, source):
    return [source.read(i) for i in range(len(source))]

  def test_by_name(self):
    sets = self.open('tfds:tiny_origins', data_dir=str(self.root / 'data'))
    for source, numbers in zip(sets, (range(7), range(7, 10))):
      self.assertCountEqual(
          self.read(source), [(jpeg(n), n % 3) for n in numbers]
      )
      self.assertEqual(tuple(source.class_names), ('newt', 'ant', 'yak'))

  def test_splits(self):
    train, evaluation = self.open(
        'tfds:tiny_origins', data_dir=str(self.root / 'data'),
        train_split='train[:4]', eval_split='test',
    )
    self.assertLen(train, 4)
    self.assertCountEqual(
        self.read(evaluation), [(jpeg(n), n % 3) for n in (10, 11)]
    )

  def test_unknown(self):
    self.assert_message(
        "'nonsense' is not known", 'tfds:nonsense',
        data_dir=str(self.root / 'data'),
    )

  def test_prepared(self):
    """By the same work as the command; TensorFlow stays out of its process."""
    from input_pipeline.prepared.writer import Preparation, Settings

    train, evaluation = self.open(
        'tfds:tiny_origins', data_dir=str(self.root / 'data')
    )
    self.out.mkdir()
    preparation = Preparation(
        dict(train=train, evaluation=evaluation), self.out,
        Settings('raw', None),
    )
    preparation.run()
    preparation.merge()
    stored = preparing.load(self.out, 'evaluation')
    self.assertCountEqual(stored.labels, [7 % 3, 8 % 3, 9 % 3])
    for pixels, label in zip(stored.items, stored.labels):
      number = next(n for n in (7, 8, 9) if n % 3 == label)
      color = np.asarray(Image.open(io.BytesIO(jpeg(number))))[0, 0]
      np.testing.assert_array_equal(
          pixels, np.broadcast_to(color, (256, 256, 3))
      )


if __name__ == '__main__':
  absltest.main()
