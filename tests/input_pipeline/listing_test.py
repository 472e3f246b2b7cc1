"""What of folders is read, followed and left out, as a user finds them."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.metrics import console
from configs import alexnet
from input_pipeline import datasets, sources
from input_pipeline.errors import DataError
from input_pipeline.files import checksums, listing, names
from input_pipeline.prepared import archives
from tests import packing

# One of each kind that some system leaves behind.
SYSTEM = (
    '__MACOSX', '.DS_Store', '._0.jpg', '.AppleDouble', '.Spotlight-V100',
    '.fseventsd', '.Trashes', 'Icon\r', 'Thumbs.db', 'THUMBS.DB',
    'ehthumbs.db', 'desktop.ini', '$RECYCLE.BIN', 'System Volume Information',
    'lost+found', '.Trash-1000', '.directory', '@eaDir', '#recycle',
    '#snapshot', '@Recycle', '@Recently-Snapshot', '.@__thumb', '@__thumb',
    '.snapshot', '~snapshot', '.git', '.ipynb_checkpoints', '__pycache__',
    '.nfs00000001', '.thumbnails', 'RECYCLER', 'Recycled', 'FOUND.001',
    'found.123', 'PaxHeader', 'PaxHeaders.4711', '$WinREAgent', 'DfsrPrivate',
    'Config.Msi', 'msdownld.tmp', '@SynoResource', '@appstore', '@database',
    '@downloads', '@sharebin', 'TheVolumeSettingsFolder', '_vti_cnf',
)
# Much like them.
CLASSES = ('recycled', 'found.1', 'found', 'paxheadersx', 'recycler bin')


class AnyText(str):
  """Equal to all that begins with it."""

  __hash__ = str.__hash__

  def __eq__(self, other):
    return other.startswith(self)


class ListingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    self.photos = self.root / 'photos'
    self.write('photos/ant/0.jpg', 'photos/newt/1.jpg')

  def write(self, *paths):
    """Writes a file of its own at each path; none is decoded here."""
    for path in paths:
      (self.root / path).parent.mkdir(parents=True, exist_ok=True)
      (self.root / path).write_bytes(path.encode())

  def link(self, path, target):
    (self.root / path).parent.mkdir(parents=True, exist_ok=True)
    (self.root / path).symlink_to(target)

  def assert_found(self, expected, left_out, class_names=None):
    """These paths are read, and these counts are told."""
    folder = sources.open_folder(self.photos, class_names)
    self.assertEqual([entry.path for entry in folder.entries], expected)
    for index in range(len(folder)):
      folder.read(index)
    self.assertEqual(folder.ignored.counts, left_out)
    return folder


class LinksTest(ListingTest):

  def test_a_folder(self):
    self.write('disk/b/2.jpg', 'disk/1.jpg', 'disk/notes.txt')
    self.link('photos/ant/more', self.root / 'disk')
    folder = self.assert_found(
        ['ant/0.jpg', 'ant/more/1.jpg', 'ant/more/b/2.jpg', 'newt/1.jpg'],
        {'.txt': 1},
    )
    self.assertIn('ant/more/notes.txt', str(folder.ignored))

  def test_a_class_folder(self):
    self.write('disk/2.jpg')
    self.link('photos/cat', '../disk')
    folder = self.assert_found(['ant/0.jpg', 'cat/2.jpg', 'newt/1.jpg'], {})
    self.assertEqual(folder.class_names, ('ant', 'cat', 'newt'))

  def test_a_link_behind_a_link(self):
    self.write('disk/2.jpg', 'other/3.jpg')
    self.link('photos/ant/more', '../../second')
    self.link('second', 'disk')
    self.link('disk/deeper', '../other')
    self.assert_found(
        ['ant/0.jpg', 'ant/more/2.jpg', 'ant/more/deeper/3.jpg', 'newt/1.jpg'],
        {},
    )

  def test_a_file(self):
    """As before, however often; its name says that it is an image."""
    self.write('disk/content')
    self.link('photos/ant/2.jpg', self.root / 'disk/content')
    self.link('photos/newt/2.jpg', '../ant/2.jpg')
    self.assert_found(
        ['ant/0.jpg', 'ant/2.jpg', 'newt/1.jpg', 'newt/2.jpg'], {}
    )

  @parameterized.parameters('.', '..', '../..', '../newt', '../newt/deep')
  def test_a_folder_that_is_read_already(self, target):
    """No circle, and no image of one class in another."""
    self.write('photos/newt/deep/2.jpg')
    self.link('photos/ant/more', target)
    expected = ['ant/0.jpg', 'newt/1.jpg', 'newt/deep/2.jpg']
    # The folder above the photos is read, but for the photos.
    told = {listing.READ_ALREADY: 1}
    folder = self.assert_found(expected, told)
    self.assertIn('ant/more', str(folder.ignored))

  def test_two_links_to_a_folder(self):
    self.write('disk/2.jpg')
    self.link('photos/ant/a', self.root / 'disk')
    self.link('photos/ant/b', self.root / 'disk')
    folder = sources.open_folder(self.photos)
    self.assertLen(folder, 3)
    self.assertEqual(folder.ignored.counts, {listing.READ_ALREADY: 1})

  def test_a_class_comes_before_a_link_in_another(self):
    self.write('disk/2.jpg')
    self.link('photos/ant/more', self.root / 'disk')
    self.link('photos/yak', self.root / 'disk')
    self.assert_found(
        ['ant/0.jpg', 'newt/1.jpg', 'yak/2.jpg'], {listing.READ_ALREADY: 1}
    )

  def test_circles_below_a_link(self):
    self.write('disk/2.jpg', 'disk/deep/3.jpg')
    for name in ('a', 'b'):
      self.link(f'disk/{name}', '.')
      self.link(f'disk/deep/{name}', '..')
    self.link('photos/ant/more', self.root / 'disk')
    self.assert_found(
        ['ant/0.jpg', 'ant/more/2.jpg', 'ant/more/deep/3.jpg', 'newt/1.jpg'],
        {listing.READ_ALREADY: 4},
    )

  @parameterized.parameters(
      'birds', 'ant/gone', 'ant/circle', 'ant/1.jpg', 'ant/deep/gone.PNG'
  )
  def test_dangling(self, path):
    """Also with an image's name, as in an archive."""
    self.link(f'photos/{path}', path.split('/')[-1].replace('gone', 'nowhere'))
    folder = self.assert_found(
        ['ant/0.jpg', 'newt/1.jpg'], {listing.DANGLING: 1}
    )
    self.assertEqual(str(folder.ignored), f'1 {listing.DANGLING} ({path})')

  @parameterized.parameters(False, True)
  def test_a_folder_called_like_an_image(self, linked):
    if linked:
      self.write('disk/2.jpg')
      self.link('photos/ant/more.jpg', self.root / 'disk')
    else:
      self.write('photos/ant/more.jpg/2.jpg')
    self.assert_found(['ant/0.jpg', 'ant/more.jpg/2.jpg', 'newt/1.jpg'], {})


class LeftOutTest(ListingTest):

  @parameterized.parameters(*SYSTEM)
  def test_system_folders(self, name):
    """Neither a class, nor searched; in photos of prediction neither."""
    self.write(f'photos/{name}/x.jpg', f'photos/ant/{name}/x.jpg')
    self.assert_found(['ant/0.jpg', 'newt/1.jpg'], {listing.HIDDEN: 2})
    left_out = listing.LeftOut()
    found, = sources.images_below([self.photos], left_out)
    self.assertLen(found, 2)
    self.assertEqual(left_out.counts, {listing.HIDDEN: 2})

  def test_classes_called_much_like_those_of_a_system(self):
    self.write(*(f'photos/{name}/x.jpg' for name in CLASSES))
    self.assertContainsSubset(
        CLASSES, sources.open_folder(self.photos).class_names
    )

  @parameterized.parameters(*SYSTEM)
  def test_system_files(self, name):
    self.write(f'photos/{name}', f'photos/newt/{name}')
    self.assert_found(['ant/0.jpg', 'newt/1.jpg'], {listing.HIDDEN: 2})

  def test_other_files(self):
    names = {
        'a.HEIC': '.heic', 'b.pdf': '.pdf', 'c.jpg.part': '.part',
        'd': 'no suffix', 'e.lnk': '.lnk', 'jpg': 'no suffix',
    }
    self.write(*(f'photos/ant/deep/{name}' for name in names))
    counts = {}
    for kind in names.values():
      counts[kind] = counts.get(kind, 0) + 1
    self.assert_found(['ant/0.jpg', 'newt/1.jpg'], counts)

  def test_beside_the_class_folders(self):
    self.write('photos/loose.jpg', 'photos/labels.csv')
    # A run's own.
    self.write('photos/alexnet_statistics_0123456789abcdef.npz')
    self.assert_found(
        ['ant/0.jpg', 'newt/1.jpg'],
        {'image(s) beside the class folders': 1, '.csv': 1},
    )

  def test_text(self):
    """Of many the first, in one line."""
    left_out = listing.LeftOut()
    self.assertFalse(left_out)
    for number in range(1200):
      left_out.add('.txt', f'{number:04d}.txt')
    for letter in 'abcdefghij':
      left_out.add(f'.{letter}', f'new\nline.{letter}')
    text = str(left_out)
    self.assertTrue(text.startswith(
        r'1,200 .txt (0000.txt, 0001.txt, 0002.txt, ...), 1 .a (new\nline.a), '
    ), text)
    self.assertTrue(text.endswith(', 3 of other kinds'), text)

  def test_a_class_without_images(self):
    """The message has what was there instead."""
    self.write('photos/yak/0.heic')
    with self.assertRaisesRegex(
        DataError, r'yak has no image .*left out: 1 \.heic \(yak/0\.heic\)'
    ):
      sources.open_folder(self.photos)

  @parameterized.parameters(
      ('flat/0.jpg', r'flat has 0 .*left out: 1 image.s. beside the class '
                     r'folders \(0.jpg\)'),
      ('flat/x.zip', r'left out: 1 \.zip \(x\.zip\)'),
      ('flat/@eaDir/x.jpg', 'left out: 1 hidden'),
  )
  def test_no_class_folder(self, path, message):
    self.write(path)
    with self.assertRaisesRegex(DataError, message):
      sources.open_folder(self.root / 'flat')

  def test_one_level_too_high(self):
    self.write('data/photos/ant/0.jpg', 'data/photos/newt/0.jpg')
    with self.assertRaisesRegex(
        DataError, f'photos has ant, newt: if .*give {self.root}/data/photos'
    ):
      sources.open_folder(self.root / 'data')

  def test_held_out_part_tells_nothing_again(self):
    self.write('photos/ant/2.jpg', 'photos/newt/2.jpg', 'photos/ant/x.txt')
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.photos)
    train, held_out = datasets.create_sources(config, 0)
    self.assertEqual(train.ignored.counts, {'.txt': 1})
    self.assertFalse(held_out.ignored)


class EvaluationTest(ListingTest):

  def test_one_class(self):
    self.write('eval/newt/0.jpg')
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.photos)
    config.eval_dir = str(self.root / 'eval')
    _, evaluation = datasets.create_sources(config, 0)
    # With the number that it has in training.
    self.assertEqual([entry.label for entry in evaluation.entries], [1])
    self.assertEqual(evaluation.class_names, ('ant', 'newt'))

  def test_some_unknown_classes(self):
    self.write('eval/newt/0.jpg', 'eval/gnu/1.jpg', 'eval/gnu/2.jpg')
    evaluation = sources.open_folder(self.root / 'eval', ('ant', 'newt'))
    self.assertEqual(
        [(e.path, e.label) for e in evaluation.entries], [('newt/0.jpg', 1)]
    )
    self.assertEqual(evaluation.ignored.counts, {sources.UNKNOWN_CLASS: 2})
    self.assertIn('gnu/1.jpg, gnu/2.jpg', str(evaluation.ignored))

  def test_empty_and_unknown_folders(self):
    for name in ('yak', 'gnu'):
      (self.photos / name).mkdir()
    self.write('photos/gnu/readme.txt')
    self.assert_found(
        ['ant/0.jpg', 'newt/1.jpg'], {listing.EMPTY: 2, '.txt': 1},
        ('ant', 'cat', 'newt', 'yak'),
    )

  def test_nothing(self):
    (self.root / 'eval/ant').mkdir(parents=True)
    self.write('eval/0.jpg')
    with self.assertRaisesRegex(
        DataError, r'eval has no image of a class: expected .*left out: 1 image'
    ):
      sources.open_folder(self.root / 'eval', ('ant', 'newt'))

  @parameterized.parameters(
      ('cafe\u0301', 'caf\u00e9'),  # As HFS+ has it.
      ('caf\u00e9', 'cafe\u0301'),
      ('\ud55c', '\u1112\u1161\u11ab'),
      ('Cat ', 'Cat'),
      ('cat', 'Cat'),
      ('STRASSE', 'stra\u00dfe'),
  )
  def test_names_that_look_equal(self, found, known):
    self.write(f'eval/{found}/0.jpg')
    evaluation = sources.open_folder(self.root / 'eval', ('ant', known, 'x'))
    self.assertEqual([entry.label for entry in evaluation.entries], [1])

  def test_letters_that_are_classes(self):
    """As they are written, where both are there; else none."""
    self.write('eval/a/0.jpg', 'eval/A/0.jpg')
    evaluation = sources.open_folder(self.root / 'eval', ('A', 'a', 'x'))
    self.assertEqual(
        {entry.path: entry.label for entry in evaluation.entries},
        {'A/0.jpg': 0, 'a/0.jpg': 1},
    )
    with self.assertRaisesRegex(DataError, 'does not have: A, a'):
      sources.open_folder(self.root / 'eval', ('AA', 'aa'))

  @parameterized.parameters(('caf\u00e9', 'cafe\u0301'), ('cat', 'cat '))
  def test_training_classes_that_look_equal(self, one, other):
    self.write(f'photos/{one}/0.jpg', f'photos/{other}/0.jpg')
    with self.assertRaisesRegex(DataError, 'which look equal') as caught:
      sources.open_folder(self.photos)
    # By which they can be told apart.
    for name in (one, other):
      self.assertIn(ascii(name), str(caught.exception))


class SetsTest(ListingTest):
  """Folders of sets, of classes, and of both."""

  def open(self, *paths):
    self.write(*(f'data/{path}' for path in paths))
    config = alexnet.get_config('folder').dataset
    config.train_dir = str(self.root / 'data')
    config.eval_fraction = 0.5
    return datasets.create_sources(config, 0)[0]

  @parameterized.parameters(
      ('train/ant/0.jpg', 'train/newt/0.jpg', 'val/ant/0.jpg', 'bus/0.jpg'),
      ('train/ant/0.jpg', 'train/newt/0.jpg', 'test/0.jpg', 'bus/0.jpg',
       'car/0.jpg'),
      ('Training/ant/0.jpg', 'Training/newt/0.jpg', 'bus/0.jpg'),
      ('train/ant/0.jpg', 'extra/ant/0.jpg', 'more/newt/0.jpg'),
      # Without a training set.
      ('bus/0.jpg', 'car/0.jpg', 'val/bus/0.jpg', 'val/car/0.jpg'),
      ('bus/0.jpg', 'car/0.jpg', 'val/bus/0.jpg', 'val/loose.jpg'),
      ('bus/0.jpg', 'car/0.jpg', 'Test/a/0.jpg'),
      # With the classes that are beside it.
      ('bus/0.jpg', 'car/0.jpg', 'train/bus/0.jpg', 'train/car/0.jpg'),
  )
  def test_both(self, *paths):
    with self.assertRaisesRegex(
        DataError, 'which look like sets, and beside them (bus|extra)'
    ):
      self.open(*paths)

  @parameterized.parameters(
      ('train',), ('Train',), ('test',), ('val',), ('train', 'test')
  )
  def test_classes(self, *names):
    """A class called so is one; with folders in it if it is the only one."""
    names = (*names, 'bus', 'car')
    paths = [f'{name}/{i}.jpg' for name in names for i in range(2)]
    deep = [] if 'train' in names and 'test' in names else [
        f'{names[0]}/{kind}/{i}.jpg' for kind in 'ab' for i in range(2)
    ]
    self.assertEqual(self.open(*paths, *deep).class_names, tuple(sorted(names)))

  @parameterized.parameters(
      ('train/ant/0.jpg', 'train/newt/0.jpg', 'val/ant/0.jpg'),
      ('train/ant/0.jpg', 'train/newt/0.jpg', '@eaDir/0.jpg',
       '__MACOSX/0.jpg'),
      ('train/ant/0.jpg', 'val/0.jpg', 'test/0.jpg'),
  )
  def test_sets(self, *paths):
    (self.root / 'data/docs').mkdir(parents=True)  # Without an image.
    with self.assertRaisesRegex(DataError, 'train.* which are sets, not'):
      self.open(*paths)

  @parameterized.parameters(
      (('train', 'bus'), ''),
      (('bus', 'car', 'trainer', 'testudo', 'dataset'), ''),
      (('test_set', 'training_set'), 'test_set, training_set'),
      (('Train_data', 'Val-data', 'bus'), 'Train_data, Val-data'),
      (('bus', 'test', 'car'), 'test'),
      (('train', 'test 1', 'train images'), 'train, test 1, train images'),
  )
  def test_classes_called_like_sets(self, classes, named):
    text = names.sets_warning(classes)
    self.assertEqual(text.partition(' are taken for classes')[0], named)

  def test_classes_called_like_sets_are_told(self):
    """By training, in its first lines."""
    train = self.open('test_set/a/0.jpg', 'training_set/a/0.jpg',
                      'test_set/a/1.jpg', 'training_set/a/1.jpg')
    lines = absltest.mock.Mock()
    console.tell_of_data(lines, train, train)
    lines.print.assert_any_call(AnyText('warning: test_set, training_set are'))

  def test_listed_once(self):
    """To know that it is a set, the first class of it is enough."""
    self.write(*(f'data/train/{name}/0.jpg' for name in 'abcdefgh'))
    with absltest.mock.patch.object(
        listing, '_entries', side_effect=listing._entries
    ) as entries:
      looks = sources.look_into(self.root / 'data/train')
    self.assertEqual(looks, (False, True, frozenset('abcdefgh')))
    self.assertEqual(entries.call_count, 2)

  def test_hidden_folders_make_no_set(self):
    train = self.open(
        'train/0.jpg', 'train/1.jpg', 'train/.cache/x.jpg', 'bus/0.jpg',
        'bus/1.jpg',
    )
    self.assertEqual(train.class_names, ('bus', 'train'))


class CopiesTest(ListingTest):

  def setUp(self):
    super().setUp()
    self.write(*(
        f'many/{name}/{i:02d}.jpg' for name in ('ant', 'newt')
        for i in range(20)
    ))
    self.many = self.root / 'many'

  def copy(self, path, *copies):
    for copy in copies:
      (self.many / copy).write_bytes((self.many / path).read_bytes())

  def split(self, copies='warn', fraction=0.1, seed=0):
    return sources.split_files(
        sources.open_folder(self.many), fraction, seed, copies=copies
    )

  def contents(self, source):
    return [source.read(i)[0] for i in range(len(source))]

  def test_warning(self):
    train, held_out = self.split()
    self.assertEqual(sources.copies_warning(train, held_out), '')
    path = held_out.entries[1].path
    self.copy(path, 'ant/copy.jpg', 'newt/copy.jpg')
    other = sources.open_folder(self.many).select(
        entry for entry in sources.open_folder(self.many).entries
        if entry not in held_out.entries
    )
    text = sources.copies_warning(other, held_out, 'do it')
    self.assertIn(
        f'1 of 4 evaluation images are in the training set, too ({self.many}/'
        f'{path} = {self.many}/ant/copy.jpg)', text,
    )
    self.assertEndsWith(text, 'better than on new images: do it')
    # Of evaluate, where it is too late.
    text = sources.copies_warning(other, held_out)
    self.assertEndsWith(text, 'better than on new images')

  def test_only_files_of_equal_sizes_are_read(self):
    train, held_out = self.split()
    for number, entry in enumerate(train.entries + held_out.entries):
      with open(self.many / entry.path, 'ab') as f:
        f.write(bytes(500 * number))
    with absltest.mock.patch.object(
        sources.Folder, '_bytes', side_effect=AssertionError
    ):
      self.assertEqual(sources.copies_warning(train, held_out), '')

  def test_not_beyond_a_number_of_files(self):
    train, held_out = self.split()
    self.copy(held_out.entries[0].path, train.entries[0].path)
    self.assertLen(sources.copies_in_both(train, held_out), 1)
    with absltest.mock.patch.object(sources, 'MOST_COMPARED', 39):
      self.assertEmpty(sources.copies_in_both(train, held_out))
      self.assertRegex(
          sources.copies_warning(train, held_out), r'not compared \(40 files\)'
      )
    with absltest.mock.patch.object(sources, 'MOST_READ', 39):
      self.assertRegex(
          sources.copies_warning(train, held_out), r'not compared \(more than'
      )

  @parameterized.parameters('folder', '.tar', '.zip')
  def test_files_that_begin_equally(self, kind):
    """Of others the first bytes only are read."""
    begin = bytes(checksums.HEAD)
    contents = {
        'a/0.jpg': begin + b'1', 'a/1.jpg': begin + b'2',
        'a/2.jpg': b'3' + begin,
        'b/0.jpg': begin + b'1', 'b/1.jpg': b'4' + begin, 'b/2.jpg': b'5',
        'b/3.jpg': b'5',
    }
    root = self.root / f'equal{kind}'
    if kind == 'folder':
      for path, content in contents.items():
        self.write(f'{root.name}/{path}')
        (root / path).write_bytes(content)
      source = sources.open_folder(root)
    else:
      root.write_bytes(packing.WRITERS[kind](contents))
      source = archives.open_archive(root, self.root)
    read = []

    def encoded(index, most):
      data = source.encoded(index, most)
      read.append((index, len(data)))
      return data

    self.assertEqual(
        checksums.find_copies(source.file_sizes(), encoded), [[0, 3], [5, 6]]
    )
    heads = [(i, checksums.HEAD) for i in range(5)] + [(5, 1), (6, 1)]
    wholes = [(i, checksums.HEAD + 1) for i in (0, 1, 3)]
    self.assertCountEqual(read, heads + wholes)

  def test_the_split_is_as_it_was(self):
    """Whatever is equal: runs of before go on. Numbers by NumPy alone."""
    self.copy('ant/00.jpg', 'ant/01.jpg', 'ant/02.jpg')
    for seed in range(3):
      rng = np.random.default_rng(seed)
      expected = []
      for name in ('ant', 'newt'):
        chosen = sorted(rng.permutation(20)[:5].tolist())
        expected += [f'{name}/{i:02d}.jpg' for i in chosen]
      _, held_out = self.split(fraction=0.25, seed=seed)
      self.assertEqual([e.path for e in held_out.entries], expected)
    # Without copies the option changes nothing.
    for index in (1, 2):
      self.write(f'many/ant/{index:02d}.jpg')
    self.assertEqual(
        self.split('together')[1].entries, self.split()[1].entries
    )

  @parameterized.parameters(0, 1, 2)
  def test_together(self, seed):
    for name in ('ant', 'newt'):
      for i in range(20):
        self.copy(f'{name}/{i:02d}.jpg', f'{name}/{i:02d}_copy.jpg')
    self.copy('ant/00.jpg', 'newt/from_ant.jpg')  # In another class.
    train, held_out = self.split('together', seed=seed)
    self.assertEmpty(set(self.contents(train)) & set(self.contents(held_out)))
    self.assertEqual(sources.copies_warning(train, held_out), '')
    self.assertEqual(len(train) + len(held_out), 81)
    # A tenth of 40 and of 41, and up to two more with a copy.
    self.assertBetween(len(held_out), 8, 11)
    self.assertLess(set(held_out.entries), set(self.split()[0].entries)
                    | set(self.split()[1].entries))
    plain, _ = self.split(seed=seed)
    self.assertNotEqual(plain.identity(), train.identity())

  def test_a_class_of_copies(self):
    for i in range(1, 20):
      self.copy('ant/00.jpg', f'ant/{i:02d}.jpg')
    with self.assertRaisesRegex(
        DataError, 'class ant of .* has one image, copies aside, too few'
    ):
      self.split('together')
    train, held_out = sources.split_files(
        sources.open_folder(self.many), 0.1, 0, single_images_stay=True,
        copies='together',
    )
    self.assertEqual([len(train), len(held_out)], [38, 2])

  def test_by_the_config(self):
    for i in range(20):
      self.copy(f'ant/{i:02d}.jpg', f'ant/{i:02d}_copy.jpg')
    config = alexnet.get_config('folder').dataset
    config.train_dir, config.copies = str(self.many), 'together'
    train, held_out = datasets.create_sources(config, 0)
    self.assertEmpty(set(self.contents(train)) & set(self.contents(held_out)))


if __name__ == '__main__':
  absltest.main()
