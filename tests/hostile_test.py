"""Files of strangers: no pickle, no size that is believed, no path outside."""

import ast
import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet import models
from alexnet.analysis.features import hashing
from alexnet.analysis.features import store as store_lib
from alexnet.checkpointing import input_spec, manager, manifest, workdir
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.cuda_convnet import parser
from alexnet.inference import loading
from alexnet.metrics import writer
from benchmarks.fuzzing import images as images_lib
from benchmarks.fuzzing.mutations import png_chunk
from input_pipeline import sources, statistics
from input_pipeline.errors import DataError, ImageError, UserError
from input_pipeline.files import untrusted
from input_pipeline.images import decoding, limits
from input_pipeline.prepared import archives, reader
from tests import definitions, preparing, testing, tiny_run
from tests.packing import tar

ROOT = pathlib.Path(__file__).parents[1]
MIB = 2**20


def jpeg(height=16, width=16, **options):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', **options)
  return buffer.getvalue()


def with_sides(encoded, height, width):
  """A JPEG that says it has other sides."""
  place = max(encoded.find(b'\xff\xc0'), encoded.find(b'\xff\xc2')) + 5
  sides = struct.pack('>HH', height, width)
  return encoded[:place] + sides + encoded[place + 4 :]


def png(height, width, *chunks, data=bytes(100)):
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return (
      b'\x89PNG\r\n\x1a\n'
      + png_chunk(b'IHDR', header)
      + b''.join(chunks)
      + png_chunk(b'IDAT', zlib.compress(data))
      + png_chunk(b'IEND', b'')
  )


class Bomb:
  """What runs a command when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.system, (f'touch {self.marker}',)


class ImagesTest(parameterized.TestCase):

  def refused(self, encoded, reason):
    with self.assertRaisesRegex(
        ImageError, rf'^cannot use photos/x.jpg \(.*{reason}'
    ):
      decoding.decode(encoded, 'photos/x.jpg')

  def peak(self, encoded, reason):
    """Most memory of Python and NumPy, in bytes, while it is refused."""
    tracemalloc.start()
    try:
      self.refused(encoded, reason)
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  @parameterized.parameters(
      (65535, 65535), (1, 2**26 + 1), (2**31 - 1, 2**31 - 1), (8193, 8192)
  )
  def test_dimensions_of_a_png(self, height, width):
    limit = '67,108,864 in all'
    peak = self.peak(
        png(height, width),
        f'{width} x {height} pixels, expected at most {limit}',
    )
    self.assertLess(peak, MIB)

  @parameterized.product(progressive=(False, True), exif=(False, True))
  def test_dimensions_of_a_jpeg(self, progressive, exif):
    options = {'exif': Image.Exif()} if exif else {}
    if exif:
      options['exif'][0x0112] = 6
    encoded = jpeg(progressive=progressive, **options)
    self.assertLess(
        self.peak(
            with_sides(encoded, 65535, 65534), '65534 x 65535 pixels, expected'
        ),
        MIB,
    )

  def test_a_second_header_does_not_help(self):
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    self.refused(
        png(16, 16, png_chunk(b'IHDR', header)), '60000 x 60000 pixels'
    )

  def test_as_many_pixels_as_allowed(self):
    rows = (b'\0' + bytes(3 * 90)) * 101
    with absltest.mock.patch.object(limits, 'MAX_PIXELS', 100 * 90):
      image = decoding.decode(png(100, 90, data=rows), 'x')
      self.assertEqual(image.size, (90, 100))
      self.refused(
          png(101, 90, data=rows), '90 x 101 pixels, expected at most 9,000'
      )

  def test_more_bytes_than_allowed(self):
    with absltest.mock.patch.object(limits, 'MAX_BYTES', 500):
      large = png(64, 64, png_chunk(b'noTe', bytes(999)))
      for encoded in (jpeg(64, 64), large):
        self.refused(encoded, 'bytes, expected at most 500')
      # And before it is read.
      path = pathlib.Path(self.create_tempdir()) / 'x.jpg'
      path.write_bytes(jpeg(64, 64))
      with (
          absltest.mock.patch.object(
              pathlib.Path, 'read_bytes', side_effect=AssertionError('read')
          ),
          self.assertRaisesRegex(ImageError, 'bytes, expected at most 500'),
      ):
        sources.read_file(path)

  def test_scans(self):
    """Each of which would be a pass over all of the image."""
    encoded = jpeg(64, 64, progressive=True)
    start = encoded.rfind(b'\xff\xda')
    scan = encoded[start:-2]
    body = encoded[:-2]
    decoding.decode(body + scan * 20 + b'\xff\xd9', 'x')
    self.refused(body + scan * 100 + b'\xff\xd9', 'more than 100 scans')

  def test_other_data_behind_the_end_are_no_scans(self):
    """As the film behind a photograph of a telephone."""
    encoded = jpeg(64, 64)
    film = b'\xff\xda\0\x0c' * 100_000
    np.testing.assert_array_equal(
        decoding.decode(encoded + film, 'x'), decoding.decode(encoded, 'x')
    )

  @parameterized.parameters(
      (b'\xff\xfe\0\2', 3000), (b'\xff\xd0', 3000), (b'\0', 3_000_000),
      (b'\xff\xe1\xff\xffExif\0\0' + bytes(65527), 300),
  )
  def test_segments(self, piece, times):
    """Pillow would take seconds for millions of them, and does not see them."""
    encoded = jpeg()
    np.testing.assert_array_equal(
        decoding.decode(encoded[:20] + piece * times + encoded[20:], 'x'),
        decoding.decode(encoded, 'x'),
    )

  def test_too_many_segments(self):
    encoded = jpeg()
    self.refused(
        encoded[:20] + b'\xff\xfe\0\2' * 200_000 + encoded[20:],
        'before its pixels, expected',
    )

  def test_chunks(self):
    rows = (b'\0' + bytes(48)) * 16
    piece = png_chunk(b'noTe', b'')
    decoding.decode(png(16, 16, piece * 10, data=rows), 'x')
    self.refused(
        png(16, 16, piece * 100_001, data=rows), 'more than 100,000 chunks'
    )

  def test_text_that_decompresses_to_much(self):
    """A quarter of a gigabyte; Pillow stops at a megabyte of it."""
    text = b'note\0\0' + zlib.compress(bytes(2**28), 1)
    self.assertLess(
        self.peak(png(16, 16, png_chunk(b'zTXt', text)), ''), 64 * MIB
    )

  def test_pillow_is_quiet(self):
    """Of fields of metadata that are broken, thousands in a file."""
    fields = b''.join(
        struct.pack('<HHII', 0x9000 + i, 2, 999, 9999) for i in range(50)
    )
    exif = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 50) + fields + bytes(4)
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    encoded = jpeg()
    with warnings.catch_warnings():
      warnings.resetwarnings()
      warnings.simplefilter('error')
      # As the module has it, which pytest resets.
      warnings.filterwarnings('ignore', module=r'PIL\.')
      decoding.decode(encoded[:2] + segment + encoded[2:], 'x')

  @parameterized.parameters(
      (b'%PDF-1.4', 'PDF'), (b'PK\3\4', 'ZIP'), (b'\0\0\0 ftypheic', 'HEIC')
  )
  def test_wrong_extension(self, data, kind):
    self.refused(data, f'it is {kind}, not a JPEG, PNG, .* file')

  def test_every_seed_of_the_fuzzing_is_an_image(self):
    """Animated, of 16 bits, CMYK, with palette, interlaced and so on."""
    seeds = images_lib.seeds()
    self.assertGreater(len(seeds), 30)
    for seed in seeds:
      self.assertIn(
          decoding.decode(seed, 'x').size, ((37, 29), (29, 37))
      )

  @parameterized.parameters(
      b'\xff', b'\xff\xc0', b'\xff\xc0\0', b'\xff\xfe\0', b'\xff\xff', b''
  )
  def test_ends_in_a_header(self, end):
    self.refused(b'\xff\xd8' + end, '')
    self.refused(jpeg()[:20] + end, '')

  def test_truncated_anywhere(self):
    for seed in images_lib.seeds()[::3]:
      for length in range(0, len(seed) - 30, 97):
        with self.assertRaises(ImageError):
          decoding.decode(seed[:length], 'x')


class ArraysTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.path = self.folder / 'x.npz'

  def header(self, shape, descr='<f4', data=b''):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {'descr': descr, 'fortran_order': False, 'shape': shape}
    )
    return buffer.getvalue() + data

  def zip_of(self, member, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(self.path, 'w', method) as archive:
      archive.writestr('a.npy', member)

  def refused(self, message, read=untrusted.load_arrays, path=None):
    tracemalloc.start()
    try:
      with self.assertRaisesRegex(untrusted.UnreadableError, message):
        read(path or self.path)
      self.assertLess(tracemalloc.get_traced_memory()[1], 8 * MIB)
    finally:
      tracemalloc.stop()

  @parameterized.parameters(
      ((10**12, 4),), ((2**62, 2**62),), ((-1,),), ((0, -5),), ((2,),),
  )
  def test_a_header_that_lies(self, shape):
    member = self.header(shape, data=bytes(4))
    self.zip_of(member)
    self.refused('it says it has .* but 4 bytes follow')
    path = self.folder / 'x.npy'
    path.write_bytes(member)
    self.refused('but 4 bytes follow', untrusted.load_array, path)
    self.refused(
        'but 4 bytes follow',
        lambda p: untrusted.load_array(p, mapped=True), path,
    )

  @parameterized.parameters(
      b"{'descr': '|u1', 'fortran_order': (\n", b"{'shape': 10**10**10}\n",
      b'[' * 9000, b"__import__('os').system('false')\n", b'\xff\0', b'3',
  )
  def test_a_header_that_is_none(self, text):
    text = text.ljust(118)
    length = struct.pack('<H', len(text))
    self.zip_of(np.lib.format.magic(1, 0) + length + text)
    self.refused('its header cannot be read')

  def test_text_of_no_length(self):
    """A petabyte of empty strings has no bytes, until it is a list."""
    self.zip_of(self.header((10**15,), '<U0'))
    self.refused("elements of type '<U0'")

  def test_bomb_in_a_zip(self):
    """64 MiB of zeros, which its header says, in 64 kB."""
    self.zip_of(self.header((2**26,), '|u1', bytes(2**26)))
    self.refused(
        'expected at most',
        lambda path: untrusted.load_arrays(path, limit=2**24),
    )

  def test_other_compression(self):
    self.zip_of(self.header((4,), '|u1', bytes(4)), zipfile.ZIP_LZMA)
    self.refused('compressed in another way')

  def test_a_name_twice(self):
    with zipfile.ZipFile(self.path, 'w') as archive:
      archive.writestr('a.npy', self.header((1,), '|u1', b'1'))
      with absltest.mock.patch('warnings.warn'):
        archive.writestr('a.npy', self.header((1,), '|u1', b'2'))
    self.refused("it has 'a' twice")

  @parameterized.parameters('<f4', '>f8', '|u1', '<U3', '|b1', '<i8')
  def test_reads_what_numpy_writes(self, descr):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, (3, 4)).astype(descr)
    for saved in (array, array.T, array[:0], array[0, 0]):
      np.savez(self.path, a=saved)
      got = untrusted.load_arrays(self.path)['a']
      np.testing.assert_array_equal(got, saved)
      self.assertEqual(got.dtype, saved.dtype)
      np.savez_compressed(self.path, a=saved)
      np.testing.assert_array_equal(
          untrusted.load_arrays(self.path)['a'], saved
      )
      path = self.folder / 'x.npy'
      np.save(path, saved)
      for mapped in (False, True):
        np.testing.assert_array_equal(
            untrusted.load_array(path, mapped=mapped), saved
        )

  def test_a_pipe_is_not_waited_for(self):
    os.mkfifo(self.folder / 'pipe')
    self.refused('not a file', path=self.folder / 'pipe')
    self.refused('not a file', untrusted.read_text, self.folder / 'pipe')


class JsonTest(parameterized.TestCase):

  @parameterized.parameters(
      ('[' * 100_000, 'nested too deeply|Expecting'),
      ('{"a":' * 100_000 + '1' + '}' * 100_000, 'nested too deeply'),
      ('[]', 'a list, expected an object'), ('3', 'a number'), ('""', 'a text'),
      ('{"a": NaN}', 'NaN, expected finite'), ('{"a": -Infinity}', 'Infinity'),
      ('{"a": 1e999}', '1e999, expected finite'),
      ('{"a": ' + '9' * 5000 + '}', '5000 digits'),
      ('{"a": 1', 'delimiter'), ('', 'Expecting'), (b'{"\xff": 1}', 'not text'),
  )
  def test_refused(self, text, message):
    path = pathlib.Path(self.create_tempdir()) / 'x.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with self.assertRaisesRegex(ValueError, message):
      untrusted.read_json(path)

  def test_too_large(self):
    path = pathlib.Path(self.create_tempdir()) / 'x.json'
    path.write_text('{}' + ' ' * untrusted.MAX_JSON)
    with self.assertRaisesRegex(ValueError, 'at most 16,777,216'):
      untrusted.read_json(path)

  @parameterized.parameters(
      '{}', '{"model": 3}', '{"model": {"name": []}}', '{"model": {"name": 3}}',
      '{"model": {"name": "alexnet"}, "schedule": 3}',
      '{"model": {"name": "alexnet"}, "a.b": 3}',
      '{"model": {"name": "alexnet"}, "items": 3}',
      '{"model": {"name": "alexnet"}, "dataset": []}', '[' * 99_999,
  )
  def test_config_of_a_run(self, text):
    folder = pathlib.Path(self.create_tempdir())
    (folder / 'config.json').write_text(text)
    with self.assertRaises(UserError):
      models.check(workdir.load_config(folder))

  @parameterized.parameters(
      '[]', '{"step": "3"}', '{"step": 3}', 'null', '[' * 99_999,
      '{"step": 3, "train_seconds": 1, "centre": 5}',
      '{"step": 3, "train_seconds": 1, "ten": {"count": 1, "loss": 1, '
      '"top1": 1, "top5": 1}}',
      '{"step": 3, "train_seconds": 1, "centre": {"top1": "x"}}',
  )
  def test_results_that_are_none(self, text):
    folder = pathlib.Path(self.create_tempdir())
    (folder / 'results.json').write_text(text)
    self.assertIsNone(workdir.load_results(folder))

  def test_lines_of_metrics(self):
    path = pathlib.Path(self.create_tempdir()) / 'metrics.jsonl'
    good = {'kind': 'train', 'step': 3, 'loss': float('inf')}
    long = f'{{"kind": "train", "step": 1, "loss": {"9" * 400}}}'
    bad = ('[]', '3', long, '{"kind": 1, "step": 1}', '{"kind": "train"}',
           '\xff', '{"kind": "train", "step": -1}', '[' * 99_999,
           '{"step": 1e9}')
    path.write_text('\n'.join((*bad, json.dumps(good), *bad)))
    self.assertEqual(writer.read_records(path), [good])
    with (
        absltest.mock.patch.object(writer, '_MOST_RECORDS', 0),
        self.assertRaisesRegex(CheckpointError, 'more than 0 records'),
    ):
      writer.read_records(path)


class PickleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.marker = self.folder / 'executed'
    self.array = np.array([Bomb(self.marker)], object)

  def test_the_bomb_would_go_off(self):
    np.save(self.folder / 'x.npy', self.array)
    np.load(self.folder / 'x.npy', allow_pickle=True)
    self.assertTrue(self.marker.exists())

  @parameterized.parameters(
      (input_spec.load, 'inputs.npz', CheckpointError),
      (lambda f: statistics.load(f / 'x.npz'), 'x.npz', DataError),
      (lambda f: store_lib.load(f / 'x.npz'), 'x.npz', UserError),
      (lambda f: hashing._load(f / 'x.npz'), 'x.npz', UserError),
  )
  def test_arrays(self, read, name, kind):
    names = (
        'class_names', 'mean_image', 'aspect', 'deviations', 'eigenvectors',
        'covariance', 'features', 'labels', 'manifest', 'codes', 'kernel',
    )
    np.savez(self.folder / name, **dict.fromkeys(names, self.array))
    with self.assertRaisesRegex(kind, r"elements of type '\|O'"):
      read(self.folder)
    # The bare pickle, which numpy.load takes for one if it may.
    (self.folder / name).write_bytes(pickle.dumps(Bomb(self.marker)))
    with self.assertRaises(kind):
      read(self.folder)
    self.assertFalse(self.marker.exists())

  def test_definition(self):
    """cuda-convnet's own checkpoints are pickles; they are not read."""
    text = pickle.dumps(Bomb(self.marker), 0).decode('latin-1')
    with self.assertRaises(ConfigError):
      parser.parse(text, text)
    self.assertFalse(self.marker.exists())

  def test_nothing_can_read_one(self):
    """No module that could, and NumPy's reader in one place only."""
    unsafe = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
    calls = {'eval', 'exec', 'compile', '__import__'}
    for folder in ('alexnet', 'input_pipeline'):
      for path in (ROOT / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
          name = str(path.relative_to(ROOT))
          if isinstance(node, ast.Import):
            found = {alias.name.split('.')[0] for alias in node.names}
            self.assertEmpty(found & unsafe, name)
          elif isinstance(node, ast.ImportFrom):
            self.assertNotIn((node.module or '').split('.')[0], unsafe, name)
          elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            self.assertNotIn(called, calls, name)
            self.assertNotIn(
                called, ('np.load', 'numpy.load', 'np.fromfile'), name
            )


class ArchivesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.scratch = self.folder / 'scratch'
    self.file = jpeg()

  def open(self, name, data):
    path = self.folder / name
    path.write_bytes(data)
    return archives.open_archive(path, self.scratch)

  def zipped(self, files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, 'w', method) as archive,
        absltest.mock.patch('warnings.warn'),
    ):
      for name, data in files:
        archive.writestr(name, data)
    return buffer.getvalue()

  def tarred(self, *members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
      for member, data in members:
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()

  @parameterized.parameters('../../x.jpg', 'a/../../x.jpg', '..', '/../x.jpg')
  def test_names_that_lead_outside(self, name):
    files = [('a/0.jpg', self.file), (name, self.file)]
    for archive in ('x.zip', 'x.tar'):
      pack = self.zipped if archive == 'x.zip' else lambda f: tar(dict(f))
      source = self.open(archive, pack(files))
      self.assertEqual([e.path for e in source.entries], ['a/0.jpg'])
    self.assertFalse((self.folder.parent / 'x.jpg').exists())

  def test_absolute_names_are_those_without(self):
    source = self.open('x.tar', tar({'/etc/0.jpg': self.file}))
    self.assertEqual([e.path for e in source.entries], ['etc/0.jpg'])

  @parameterized.parameters(
      tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
      tarfile.FIFOTYPE,
  )
  def test_links_and_devices(self, kind):
    member = tarfile.TarInfo('a/x.jpg')
    member.type, member.linkname = kind, '/etc/passwd'
    good = tarfile.TarInfo('a/0.jpg')
    good.size = len(self.file)
    source = self.open('x.tar', self.tarred((member, b''), (good, self.file)))
    self.assertEqual([e.path for e in source.entries], ['a/0.jpg'])

  @parameterized.parameters('x.zip', 'x.tar')
  def test_a_name_twice(self, name):
    files = [('a/0.jpg', self.file), ('./a/0.jpg', self.file)]
    data = self.zipped(files) if name == 'x.zip' else tar(dict(files))
    with self.assertRaisesRegex(DataError, 'has a/0.jpg twice'):
      self.open(name, data)

  @parameterized.parameters(2**40, 2**62, -1, -512)
  def test_sizes_of_tar_that_lie(self, size):
    member = tarfile.TarInfo('a/0.jpg')
    member.size = len(self.file)
    data = bytearray(self.tarred((member, self.file)))
    data[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    data[148:156] = b' ' * 8
    data[148:156] = b'%06o\0 ' % sum(data[:512])
    with self.assertRaises(DataError):
      source = self.open('x.tar', bytes(data))
      source.read(0)

  @parameterized.product(kind=list('LKxgX'), nested=(False, True))
  def test_extensions_of_tar(self, kind, nested):
    """A name or attributes of 8 MiB, which compress to a few kB."""
    data = self.extended(kind, 8 * MIB)
    if nested:
      data = tar({'a.tar': data})
    packed = gzip.compress(data, 1)
    self.assertLess(len(packed), MIB)
    message = 'attributes of 8,388,608 bytes at byte 0, expected at most 1,048'
    self.assertLess(self.peak('x.tar.gz', packed, message), 2 * MIB)

  @parameterized.parameters(*'LKxg')
  def test_extensions_in_a_row(self, kind):
    """All of which are in memory before there is a member."""
    one = self.extended(kind, 2**18)[: 512 + 2**18]
    members = tar({'0/a.jpg': self.file})
    self.open('x.tar', one * 4 + members)
    with self.assertRaisesRegex(DataError, 'attributes of 1,310,720 bytes'):
      self.open('y.tar', one * 5 + members)
    # They are gone with a member, unless they are for all.
    blocks = -(-len(self.file) // 512)
    data = one * 4 + members[: 512 * (1 + blocks)]
    data += one * 4 + tar({'1/b.jpg': self.file})
    if kind == 'g':
      with self.assertRaisesRegex(DataError, 'attributes of 1,310,720 bytes'):
        self.open('z.tar', data)
    else:
      self.open('z.tar', data)

  def test_holes_of_tar(self):
    """A list of 172,032 of them, in 4 MiB; no image has any."""
    header = bytearray(tarfile.TarInfo('0/a.jpg').tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1  # More follow.
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    holes = b'00000000001\0' * 42 + b'\1' + bytes(7)
    data = bytes(header) + holes * 2**13 + bytes(1024)
    self.assertLess(self.peak('x.tar', data, 'a.jpg is a sparse file'), MIB)

  def peak(self, name, data, message):
    """Most memory of Python, in bytes, while an archive is refused."""
    (self.folder / name).write_bytes(data)
    tracemalloc.start()
    try:
      with (
          absltest.mock.patch.object(archives, '_COPIED', 2**16),
          self.assertRaisesRegex(DataError, message),
      ):
        archives.open_archive(self.folder / name, self.scratch)
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  def extended(self, kind, size):
    """A tar file of one image, behind a name or attributes of a size."""
    header = tarfile.TarInfo('long')
    header.type, header.size = kind.encode(), size
    text = b'n' * size
    if kind in 'xgX':
      text = b'%d comment=' % size
      text += b'n' * (size - len(text) - 1) + b'\n'
    return header.tobuf(tarfile.GNU_FORMAT) + text + tar({'0/a.jpg': self.file})

  def test_sizes_of_zip(self):
    """A bomb: 128 MiB and more of zeros in 130 kB."""
    data = self.zipped([('a/0.jpg', bytes(2**27 + 1))])
    self.assertLess(len(data), MIB)
    source = self.open('x.zip', data)
    tracemalloc.start()
    try:
      with self.assertRaisesRegex(ImageError, '134,217,729 bytes, expected'):
        source.read(0)
      self.assertLess(tracemalloc.get_traced_memory()[1], MIB)
    finally:
      tracemalloc.stop()

  def test_sizes_of_zip_that_lie(self):
    """It says 100 bytes, and it is compressed from 64 MiB."""
    data = bytearray(self.zipped([('a/0.jpg', bytes(2**26))]))
    place = data.rfind(b'PK\1\2')
    data[place + 24 : place + 28] = struct.pack('<I', 100)
    source = self.open('x.zip', bytes(data))
    tracemalloc.start()
    try:
      with self.assertRaisesRegex(ImageError, 'CRC'):
        source.read(0)
      self.assertLess(tracemalloc.get_traced_memory()[1], 8 * MIB)
    finally:
      tracemalloc.stop()

  @parameterized.parameters(zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
  def test_methods_of_zip_that_are_not_bounded(self, method):
    data = self.zipped([('a/0.jpg', self.file)], method)
    with self.assertRaisesRegex(ImageError, 'its compression is not read'):
      self.open('x.zip', data).read(0)

  def test_xz(self):
    """Several files in one, and a dictionary that is too large."""
    whole = tar({'a/0.jpg': self.file})
    parts = lzma.compress(whole[:700]) + lzma.compress(whole[700:])
    source = self.open('x.tar.xz', parts)
    self.assertEqual(source.read(0)[0], self.file)
    for cut in (parts[:-20], parts[: len(parts) // 3]):
      with self.assertRaises(DataError):
        self.open('y.tar.xz', cut)
    filters = [{'id': lzma.FILTER_LZMA2, 'dict_size': 2**29}]
    with self.assertRaisesRegex(DataError, '(?i)memory usage limit'):
      self.open('z.tar.xz', lzma.compress(whole, filters=filters))

  def test_a_name_that_is_empty(self):
    data = self.zipped([('a/0.jpg', self.file), ('b', b'')])
    place = data.rfind(b'PK\1\2')
    data = bytearray(data)
    data[place + 28 : place + 30] = bytes(2)
    del data[place + 46]
    # The directory's length, so that it is found where it is.
    end = data.rfind(b'PK\5\6')
    size = struct.unpack_from('<I', data, end + 12)[0] - 1
    struct.pack_into('<I', data, end + 12, size)
    with self.assertRaisesRegex(DataError, 'cannot read the archive'):
      self.open('x.zip', bytes(data))

  def test_bomb_of_a_compressed_tar(self):
    with tarfile.open(self.folder / 'x.tar.xz', 'w:xz') as archive:
      member = tarfile.TarInfo('a/0.jpg')
      member.size = 4 * MIB
      archive.addfile(member, io.BytesIO(bytes(member.size)))
    with (
        absltest.mock.patch.object(archives, '_SMALLEST_LIMIT', MIB),
        absltest.mock.patch.object(archives, '_COPIED', 2**16),
        self.assertRaisesRegex(DataError, 'to more than 1,048,576'),
    ):
      archives.open_archive(self.folder / 'x.tar.xz', self.scratch)
    self.assertEmpty([*self.scratch.iterdir()])


class DefinitionsTest(parameterized.TestCase):

  def refused(self, message, layers=None, params=None, lines=''):
    layers, params = definitions.small(layers or {}, params)
    texts = map(definitions.text, (layers, params))
    with self.assertRaisesRegex(ConfigError, message):
      one, two = texts
      parser.parse(one + lines, two)

  def conv(self, **options):
    return {'data2': dict(
        dict(type='conv', inputs='data', filters=8, padding=2, stride=1,
             filterSize=5, channels=3, initW=0.01), **options)}

  @parameterized.parameters(
      (dict(filters=10**12), "filters is '1000000000000'.*at most 16,777,216"),
      (dict(filters=10**7), 'has 10,000,000 outputs'),
      (dict(padding=10**6), r'2000220 x 2000220 pixels|outputs of'),
      (dict(filters=50_000, filterSize=100, stride=100, padding=0),
       'brings the network to'),
      (dict(filters='9' * 1000), "filters is '9{60}\\.\\.\\.'"),
      (dict(initW='1e99'), 'initW'),
      (dict(filters=2**19, channels=3, groups=3, randSparse=1), ''),
  )
  def test_absurd_numbers(self, options, message):
    params = {'data2': definitions.trained()}
    self.refused(message, self.conv(**options), params)

  @parameterized.parameters(
      'dexp[250,1000000000000]', 'dexp[1e-320,4]', 'exp[1e300]',
      'exp[10,1e99]', 'dexp[250,nan,4]',
  )
  def test_absurd_schedules(self, schedule):
    params = {'out': definitions.trained(schedules={'schedW': schedule})}
    self.refused('schedW', params=params)

  def test_concat_of_concats(self):
    """Which would double forty times."""
    layers, reads = {}, 'data'
    for index in range(40):
      layers[f'l{index}'] = dict(type='concat', inputs=f'{reads},{reads}')
      reads = f'l{index}'
    self.refused('outputs of 224 x 224 pixels: expected at most', layers)

  def test_lines(self):
    self.refused('expected at most 2,000', lines='#' * 5000)
    self.refused(
        'and 1,000', lines=''.join(f'[x{i}]\n' for i in range(1100))
    )

  def test_a_file_that_is_too_large(self):
    from alexnet.cuda_convnet import config as config_lib
    from configs import cuda_convnet as recipe

    path = pathlib.Path(self.create_tempdir()) / 'layers.cfg'
    path.write_text('#' * 2**21)
    config = recipe.get_config(str(path))
    config.layer_params = str(path)
    with self.assertRaisesRegex(ConfigError, '2,097,152 bytes, expected'):
      config_lib.complete(config)


class PreparedTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    photos = preparing.write_photos(self.root / 'in', 4)
    self.prepare(photos)

  def change(self, **fields):
    path = self.out / 'manifest.json'
    values = json.loads(path.read_text())
    for name, value in fields.items():
      *parents, last = name.split('__')
      part = values
      for parent in parents:
        part = part[parent]
      part[last] = value
    path.write_text(json.dumps(values))

  def refused(self, message):
    with self.assertRaisesRegex(DataError, message):
      train, _ = reader.open_prepared(self.out)
      for index in range(len(train)):
        train.image(index)
        train.describe(index)

  def test_manifest(self):
    before = (self.out / 'manifest.json').read_text()
    for fields, message in (
        (dict(settings=3), 'no field settings.storage'),
        (dict(settings__size=10**9), 'settings.size is 1000000000'),
        (dict(settings__storage='gif'), 'neither jpeg nor raw'),
        (dict(class_names='abc'), "class_names is 'abc', expected list"),
        (dict(sets__train__files={'../../etc/passwd': ''}), 'not the name of'),
        (dict(sets__train__shards=[{'file': '/etc/passwd', 'bytes': 1,
                                    'sha256': ''}]), "is '/etc/passwd'"),
        (dict(sets__train__images=99), 'do not fit the manifest'),
        (dict(sets=[]), 'no field sets.train'),
    ):
      (self.out / 'manifest.json').write_text(before)
      self.change(**fields)
      self.refused(message)

  def test_an_image_of_other_sides(self):
    """It would be decoded to 60 MB, of 65,535 pixels to 12 GB."""
    shard = next(self.out.glob('train-*.npy'))
    data = bytearray(shard.read_bytes())
    place = data.find(b'\xff\xc0') + 5
    data[place : place + 4] = struct.pack('>HH', 4000, 5000)
    shard.write_bytes(data)
    self.refused('5000 x 4000 pixels, expected 256 x 256')

  def test_scans(self):
    """An image that is refused when it is prepared is no better later."""
    encoded = jpeg(256, 256, progressive=True)
    start = encoded.rfind(b'\xff\xda')
    body, scan = encoded[:-2], encoded[start:-2]
    self.assertEqual(decoding.decode_stored(encoded, 256, 256).shape[0], 256)
    comments = (b'\xff\xfe\0\2', b'\xff\xfe\0\3x')
    for between in (b'', *comments):  # At even places, and at odd ones.
      bad = body + (scan + between) * 101 + b'\xff\xd9'
      with self.assertRaisesRegex(ValueError, 'more than 100 scans'):
        decoding.decode_stored(np.frombuffer(bad, np.uint8), 256, 256)
    self.replace_first(body + scan * 100 + b'\xff\xd9')
    self.refused('.jpg of .* is damaged .it has more than 100 scans')

  def test_sizes(self):
    """Those that NumPy takes for other numbers; and of any whole type."""
    with np.load(self.out / 'train.npz') as arrays:
      arrays = dict(arrays)
    right = arrays['sizes']
    train, _ = reader.open_prepared(self.out)
    pixels = train.image(1)[0]
    for kind in (np.uint64, np.uint32, np.int64):
      arrays['sizes'] = right.astype(kind)
      np.savez(self.out / 'train.npz', **arrays)
      train, _ = reader.open_prepared(self.out)
      np.testing.assert_array_equal(train.image(1)[0], pixels)
    for size in (0, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1):
      kind = np.uint64 if size > 0 else np.int64
      arrays['sizes'] = right.astype(kind)
      arrays['sizes'][0] = size
      np.savez(self.out / 'train.npz', **arrays)
      self.refused(f'cannot read .*train.npz .a file of {size} bytes')

  def test_segments(self):
    encoded = jpeg(256, 256)
    with self.assertRaisesRegex(ValueError, 'before its pixels, expected'):
      decoding.decode_stored(
          encoded[:20] + b'\xff\xfe\0\2' * 200_000 + encoded[20:], 256, 256
      )

  def test_bytes(self):
    encoded = jpeg(256, 256)
    with (
        absltest.mock.patch.object(limits, 'MAX_BYTES', len(encoded) - 1),
        self.assertRaisesRegex(ValueError, 'bytes, expected at most'),
    ):
      decoding.decode_stored(encoded, 256, 256)

  def replace_first(self, encoded):
    """Puts another file in place of the training set's first image."""
    shard = next(self.out.glob('train-*.npy'))
    with np.load(self.out / 'train.npz') as arrays:
      arrays = dict(arrays)
    data = np.load(shard)[arrays['sizes'][0] :]
    np.save(shard, np.concatenate([np.frombuffer(encoded, np.uint8), data]))
    arrays['sizes'][0] = len(encoded)
    np.savez(self.out / 'train.npz', **arrays)
    values = json.loads((self.out / 'manifest.json').read_text())
    values['sets']['train']['shards'][0]['bytes'] = shard.stat().st_size
    (self.out / 'manifest.json').write_text(json.dumps(values))

  def test_labels_of_no_class(self):
    with np.load(self.out / 'train.npz') as arrays:
      arrays = dict(arrays)
    arrays['labels'][0] = 99
    np.savez(self.out / 'train.npz', **arrays)
    self.refused('labels are not those of 3 classes')


class CheckpointShapesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir())
    images = testing.write_images(root / 'images', classes=2, per_class=2)
    self.workdir = root / 'run'
    self.network = tiny_run.write(self.workdir, images, 2)

  def save_again(self, params):
    shutil.rmtree(self.workdir / 'checkpoints')
    store = manager.Checkpoints(self.workdir, 1)
    store.save(2, {'params': params}, {})
    store.close()

  def test_another_shape(self):
    """Looked at before any array of the checkpoint is read."""
    params = dict(self.network.params)
    params['fc7'] = {**params['fc7'], 'kernel': jnp.zeros((2000, 1000))}
    self.save_again(params)
    with (
        absltest.mock.patch.object(
            manager.Checkpoints, 'restore_variables',
            side_effect=AssertionError('restored'),
        ),
        self.assertRaisesRegex(
            CheckpointError,
            r'has float32 \(2000, 1000\) for fc7/kernel, its config wants '
            r'float32 \(32, 32\)',
        ),
    ):
      loading.load(self.workdir)

  def test_a_petabyte_of_nothing(self):
    """An array that says its shape, and has no chunk on disk."""
    import tensorstore

    state = self.workdir / 'checkpoints' / '2' / 'state'
    metadata = json.loads((state / '_METADATA').read_text())
    tensorstore.open(
        {
            'driver': 'zarr',
            'kvstore': {
                'driver': 'ocdbt', 'base': f'file://{state}/',
                'path': 'params.fc7.kernel/',
            },
            'metadata': {
                'shape': [10**8, 10**7], 'chunks': [10**4, 10**4],
                'dtype': '<f4', 'compressor': None, 'fill_value': None,
                'filters': None, 'order': 'C', 'zarr_format': 2,
                'dimension_separator': '.',
            },
        },
        create=True, delete_existing=True,
    ).result()
    self.assertIn('tree_metadata', metadata)
    store = manager.Checkpoints(self.workdir, 1)
    (self.workdir / 'checkpoints/2' / manifest.FILE).unlink()
    manifest.write(self.workdir / 'checkpoints/2')
    # As a run that is continued, which knows its shapes, and one that is used.
    target = {'params': jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        self.network.params,
    )}
    with self.assertRaisesRegex(CheckpointError, 'not of this network'):
      store.restore(2, target)
    store.close()
    with self.assertRaises(CheckpointError):
      loading.load(self.workdir)

  def test_another_config(self):
    path = self.workdir / 'config.json'
    values = json.loads(path.read_text())
    values['model']['fc6']['features'] = 2**20
    values['model']['fc7']['features'] = 2**20
    path.write_text(json.dumps(values))
    with self.assertRaisesRegex(ConfigError, 'parameters, expected at most'):
      loading.load(self.workdir)


if __name__ == '__main__':
  absltest.main()
