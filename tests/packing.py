"""Small files, archives of them, and a test case that opens them as origins."""

import bz2
import gzip
import io
import lzma
import pathlib
import tarfile
import zipfile

from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.prepared import origins
from tests.preparing import PreparingTest


def jpeg(number):
  """A JPEG file unlike those of other numbers."""
  buffer = io.BytesIO()
  color = (number % 256, number * 7 % 256, number * 31 % 256)
  Image.new('RGB', (20, 16), color).save(buffer, 'JPEG')
  return buffer.getvalue()


def members(*paths, first=0):
  """{path: a JPEG of its own}."""
  return {path: jpeg(first + number) for number, path in enumerate(paths)}


def tar(files, mode='w', **options):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


def zipped(files, compression=zipfile.ZIP_STORED):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', compression) as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return buffer.getvalue()


# How an archive with this suffix is written.
WRITERS = {
    '.tar': tar,
    '.TAR': tar,
    '.tar.gz': lambda files: gzip.compress(tar(files)),
    '.tgz': lambda files: gzip.compress(tar(files)),
    '.tar.bz2': lambda files: bz2.compress(tar(files)),
    '.tar.xz': lambda files: lzma.compress(tar(files)),
    '.zip': zipped,
    '.Zip': lambda files: zipped(files, zipfile.ZIP_DEFLATED),
}


class OriginsTest(PreparingTest):

  def write(self, name, content):
    """Writes a file, or a folder of {path: content}."""
    path = self.root / name
    if isinstance(content, dict):
      for inner, data in content.items():
        self.write(f'{name}/{inner}', data)
    else:
      path.parent.mkdir(parents=True, exist_ok=True)
      if isinstance(content, str):
        content = content.encode()
      path.write_bytes(content)
    return path

  def open(self, source, **options):
    for name in ('eval_source', 'eval_labels'):
      if name in options:
        options[name] = str(self.root / options[name])
    if isinstance(source, pathlib.Path) or (self.root / source).exists():
      source = str(self.root / source)
    return origins.open_origin(
        source, scratch=self.root / 'scratch', **options
    )

  def content(self, source):
    """{path below the folder or archive: (file, name of its class)}."""
    found = {}
    for index in range(len(source)):
      data, label = source.read(index)
      path = pathlib.Path(source.describe(index)).relative_to(source.root)
      found[str(path)] = data, source.class_names[label]
    self.assertLen(found, len(source))
    return found

  def assert_has(self, source, files, classes=None):
    """These files, each in the class that its folder names."""
    expected = {
        path: (data, path.split('/')[-2]) for path, data in files.items()
    }
    self.assertEqual(self.content(source), expected)
    # In a fixed order, and with the classes in theirs.
    self.assertEqual(list(self.content(source)), sorted(expected))
    names = classes or sorted({name for _, name in expected.values()})
    self.assertEqual(tuple(source.class_names), tuple(names))

  def assert_message(self, message, source, **options):
    with self.assertRaises(DataError) as caught:
      self.open(source, **options)
    self.assertRegex(str(caught.exception), message)
    self.assertNotIn('\n', str(caught.exception))


CLASSES = members('ant/0.jpg', 'ant/1.JPG', 'newt/0.png', 'yak/2.jpeg')
SETS = members(
    'train/ant/0.jpg', 'train/newt/0.jpg', 'train/yak/0.jpg', 'val/ant/1.jpg',
    'val/yak/1.jpg',
)


def below(prefix, files):
  return {f'{prefix}/{path}': data for path, data in files.items()}


def of_set(files, name):
  return {path: data for path, data in files.items() if f'{name}/' in path}


# What macOS and others add to archives.
JUNK = {
    '__MACOSX/ant/._0.jpg': b'junk', '__MACOSX/other/0.jpg': b'junk',
    'ant/._0.jpg': b'junk', '.DS_Store': b'junk', 'ant/.cache/0.jpg': b'junk',
    'ant/readme.txt': b'junk', 'notes.md': b'junk', 'ant/Thumbs.db': b'junk',
}
