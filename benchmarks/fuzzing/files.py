"""Fuzzing of checkpoints, workdirs, data, features and definitions.

Each reader's seeds are a folder written by this program. An input is that
folder with one file changed.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import tarfile
import zipfile

import numpy as np
from PIL import Image

from benchmarks.fuzzing import mutations
from benchmarks.fuzzing.worker import Finding
from input_pipeline.errors import UserError

# Errors that the command line shows as messages; others are tracebacks.
REFUSALS = (UserError, OSError)
_WORDS = (
    b'PK\3\4', b'PK\1\2', b'PK\5\6', b'PK\6\6', b'\x93NUMPY\1\0', b'NUMPY\3\0',
    b"'descr': '|O'", b"'descr': '<f8'", b"'shape': (1000000000000,)",
    b"'shape': (-1,)", b'True', b'(0, 4611686018427387904)', b'ustar\0',
    b'\x80\xff\xff\xff\xff\xff\xff\xff', b'77777777777', b'../../', b'\0', b'L',
    b'x', b'g', b'5', b'2', b'S',
)
_TEXTS = ('.json', '.jsonl', '.txt', '.cfg')


class _Folder:
  """Changes one file of a folder; subclasses write it and read it."""

  refusals = REFUSALS

  def __init__(self, folder: pathlib.Path):
    self.folder = folder / 'seed'
    self.folder.mkdir()
    self.write()
    self.seeds = {
        str(path.relative_to(self.folder)): path.read_bytes()
        for path in sorted(self.folder.rglob('*'))
        if path.is_file()
    }
    # The unchanged folder must be accepted, or refusals would mean nothing.
    self.read((next(iter(self.seeds)), next(iter(self.seeds.values()))))

  def write(self) -> None:
    """Writes the seeds into `self.folder`."""

  def use(self, name: str) -> str | None:
    """Reads the folder after the file `name` was changed."""

  def choose(self, rng: random.Random) -> str:
    """Returns the name of the file to change."""
    return rng.choice(list(self.seeds))

  def make(self, rng: random.Random) -> tuple[str, bytes]:
    name = self.choose(rng)
    text = name.endswith(_TEXTS)
    changed = mutations.mutate(
        self.seeds[name],
        rng,
        list(self.seeds.values()),
        () if text else _WORDS,
        text=text,
    )
    return name, changed

  def read(self, made: tuple[str, bytes]) -> str | None:
    name, data = made
    path = self.folder / name
    path.write_bytes(data)
    try:
      return self.use(name)
    finally:
      path.write_bytes(self.seeds[name])

  def save(self, made: tuple[str, bytes], path: pathlib.Path) -> None:
    path.write_bytes(f'{made[0]}\n'.encode() + made[1])


def _pictures(folder, count=3):
  rng = np.random.default_rng(0)
  for label in 'ab':
    for index in range(count):
      path = folder / label / f'{index}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
      Image.fromarray(pixels).save(path, quality=80)


class Definitions(_Folder):
  """A layer definition and its parameters, in the authors' format."""

  def write(self):
    from tests import definitions

    middle = {
        'conv': dict(type='conv', inputs='data', filters=8, padding=2, stride=2,
                     filterSize=5, channels=3, initW=0.01, groups=1,
                     sharedBiases=0, neuron='tanh[1.7,0.6]'),
        'sparse': dict(type='conv', inputs='conv', filters=4, padding=0,
                       stride=1, filterSize=3, channels=8, initW=0.01, groups=2,
                       randSparse='true', filterChannels=4),
        'blur': dict(type='blur', inputs='sparse', channels=8, filterSize=3,
                     stdev=1.5),
        'nail': dict(type='nailbed', inputs='blur', channels=8, stride=2),
        'both': dict(type='concat', inputs='nail,nail'),
        'sum': dict(type='eltsum', inputs='both,both', coeffs='1,0.5'),
    }
    schedule = {'schedW': 'dexp[250,0.1,4]', 'schedB': 'exp[tgtFactor=40]'}
    params = {
        'conv': definitions.trained(schedules=schedule),
        'sparse': definitions.trained(),
    }
    for name, files in (
        ('all', definitions.small(middle, params, reads='sum')),
        ('145', definitions.run_145(schedule, **definitions.NARROW)),
    ):
      for kind, sections in zip(('layers', 'params'), files):
        path = self.folder / f'{kind}-{name}.cfg'
        path.write_text(definitions.text(sections))

  def use(self, name):
    from alexnet import models
    from alexnet.cuda_convnet import config as config_lib
    from configs import cuda_convnet

    which = name.rpartition('-')[2]
    config = cuda_convnet.get_config(str(self.folder / f'layers-{which}'))
    config.layer_params = str(self.folder / f'params-{which}')
    models.check(config)
    config_lib.complete(config)
    for of_layer in config_lib.parameter_rules(config).values():
      for rule in of_layer.values():
        for progress in (0, 0.3, 1):
          rate = rule.rate_at(progress, 1.5)
          if not 0 <= rate < 1e300:
            raise Finding(f'a rate is {rate}')
    return 'a network'


class Workdirs(_Folder):
  """The files of a run besides its checkpoints."""

  def write(self):
    from alexnet.checkpointing import input_spec, workdir
    from tests import testing

    config = testing.narrow_config()
    config.model.num_classes = 10
    workdir.save_config(self.folder, config)
    mean = np.full((16, 16, 3), 120, np.float32)
    input_spec.save(
        self.folder,
        input_spec.Inputs(tuple('ab'), mean, 'keep', np.ones(3), np.eye(3)),
    )
    result = dict(count=3, loss=1.5, top1=0.5, top5=0.75, views=10)
    values = {'step': 3, 'train_seconds': 1.5, 'centre': result, 'ten': result}
    workdir.write_json(self.folder / workdir.RESULTS, values)
    session = {
        'command': ['main.py'], 'python': '3.11', 'packages': {'jax': '0.10'},
        'devices': ['cpu'], 'device_kind': 'cpu', 'mesh': {'data': 1},
    }
    workdir.write_json(
        self.folder / workdir.ENVIRONMENT, {'sessions': [session]}
    )
    records = [
        {'kind': kind, 'step': step, 'epoch': 0.1 * step, 'loss': 2.0 / step,
         'top1': 0.5, 'images_per_second': None}
        for step in (1, 2, 3)
        for kind in ('train', 'eval_centre')
    ]
    lines = (json.dumps(record) + '\n' for record in records)
    (self.folder / 'metrics.jsonl').write_text(''.join(lines))

  def use(self, name):
    from alexnet import models
    from alexnet.analysis.report import run_history
    from alexnet.checkpointing import input_spec
    from alexnet.metrics.console import VIEWS, format_result

    run = run_history.read(self.folder)
    for kind in ('train', 'eval_centre'):
      run.points(kind, 'loss')
    for views in VIEWS:
      if run.results and views in run.results:
        format_result(views, run.results[views])
    input_spec.load(self.folder)
    models.check(run.config)
    if name == 'config.json':
      models.create_model(run.config.model)
    return name


class Prepared(_Folder):
  """Prepared data, as JPEG files or pixels."""

  def write(self):
    from input_pipeline import sources
    from input_pipeline.prepared import writer as writer_lib

    photos = self.folder.parent / 'photos'
    _pictures(photos)
    for storage in ('jpeg', 'raw'):
      quality = 90 if storage == 'jpeg' else None
      work = writer_lib.Preparation(
          {'train': sources.open_folder(photos)},
          self.folder / storage,
          writer_lib.Settings(storage, quality, 'keep', 16),
          workers=1,
      )
      work.run()
      work.merge()

  def use(self, name):
    from input_pipeline import preprocessing
    from input_pipeline.prepared import reader

    train, _ = reader.open_prepared(self.folder / name.split('/')[0])
    for index in range(len(train)):
      image, label = train.image(index, preprocessing.whole(train.size))
      if image.shape != (train.size, train.size, 3) or not 0 <= label < 2:
        raise Finding(f'an image of {image.shape}, label {label}')
      train.describe(index)
    train.statistics()
    return name.split('/')[-1]


class Features(_Folder):
  """Features, as a folder with codes and as a single file."""

  def write(self):
    from alexnet.analysis.features import hashing
    from alexnet.analysis.features import store as store_lib

    rng = np.random.default_rng(0)
    about = {
        'layer': 'fc7', 'workdir': 'runs/x', 'step': 3, 'source': 'train',
        'set': 'train', 'class_names': ['a', 'b'],
    }
    for name in ('set', 'set.npz'):
      writer = store_lib.Writer(self.folder / name, about)
      vectors = rng.standard_normal((24, 20)).astype(np.float32)
      names = [f'{i}.jpg' for i in range(24)]
      writer.add(vectors, np.arange(24) % 2, np.arange(24), names)
      writer.close()
    # Codes without training, which would take longest of all.
    coder = hashing.rotated(hashing.fit_components(vectors), 16)
    found = store_lib.load(self.folder / 'set')
    hashing.save(hashing.CodeIndex(coder, coder.encode(found.vectors)), found)

  def use(self, name):
    from alexnet.analysis.features import hashing
    from alexnet.analysis.features import store as store_lib

    found = store_lib.load(self.folder / name.split('/')[0])
    [found.names[i] for i in range(len(found))]
    found.vectors.sum()
    store_lib.require(found, 'class_names', 'layer', 'source', 'step')
    for label in found.labels.tolist():
      found.about['class_names'][label]
    if name.startswith('set/code'):
      hashing.open_index(found, 16).search(np.zeros((1, 20), np.float32), 2)
    return name


class Archives(_Folder):
  """Tar and zip files of images."""

  def write(self):
    photos = self.folder.parent / 'photos'
    _pictures(photos, 2)
    with tarfile.open(self.folder / 'train.tar', 'w') as archive:
      archive.add(photos, 'photos')
    with tarfile.open(self.folder / 'in.tar', 'w') as archive:
      archive.add(self.folder / 'train.tar', 'c.tar')
    for kind in ('gz', 'bz2', 'xz'):
      with tarfile.open(self.folder / f'x.tar.{kind}', f'w:{kind}') as archive:
        archive.add(photos, '.')
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      with zipfile.ZipFile(
          self.folder / f'{method}.zip', 'w', method
      ) as archive:
        for path in sorted(photos.rglob('*.jpg')):
          archive.write(path, path.relative_to(photos))

  def use(self, name):
    from input_pipeline import preprocessing
    from input_pipeline.errors import ImageError
    from input_pipeline.prepared import archives

    scratch = self.folder.parent / 'scratch'
    outside = set(self.folder.parent.iterdir()) | {scratch}
    try:
      source = archives.open_archive(self.folder / name, scratch)
      taken = 0
      for index in range(len(source)):
        with contextlib.suppress(ImageError):
          encoded, _ = source.read(index)
          preprocessing.to_square(encoded, source.describe(index))
          taken += 1
      if set(self.folder.parent.iterdir()) - outside:
        raise Finding('it has written outside its folder')
      return f'{name}, {taken} image(s)'
    finally:
      shutil.rmtree(scratch, ignore_errors=True)


class Checkpoints(_Folder):
  """A checkpoint with one file changed, which must never be accepted as is."""

  step = 7

  def write(self):
    import jax

    from alexnet.checkpointing import manager
    from alexnet.training import progress as progress_lib

    rng = np.random.default_rng(0)
    params = {
        layer: {
            'kernel': rng.standard_normal((4, 6), np.float32),
            'bias': np.zeros(6, np.float32),
        }
        for layer in ('fc7', 'fc8')
    }
    self.state = jax.device_put(
        {'params': params, 'velocity': jax.tree.map(np.ones_like, params)}
    )
    self.progress = json.loads(
        json.dumps(dataclasses.asdict(progress_lib.Progress(step=self.step)))
    )
    store = manager.Checkpoints(self.folder, 1)
    store.save(self.step, self.state, self.progress)
    store.close()
    self.target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        self.state,
    )

  def _restore(self):
    """Restores as a continued run does."""
    from alexnet.checkpointing import manager
    from alexnet.config.errors import CheckpointError
    from alexnet.training import progress as progress_lib

    if self.step not in manager.complete_steps(self.folder):
      raise CheckpointError('incomplete')
    store = manager.Checkpoints(self.folder, 1)
    try:
      state, progress = store.restore(self.step, self.target)
      try:
        progress_lib.Progress.from_dict(progress)
      except ValueError as error:
        raise CheckpointError(str(error)) from error
      return state, progress
    finally:
      store.close()

  def _same(self, state, progress):
    import jax

    same = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
        state, self.state,
    )
    return all(jax.tree.leaves(same)) and progress == self.progress

  def use(self, name):
    state, progress = self._restore()
    original = (self.folder / name).read_bytes() == self.seeds.get(name)
    manifest = name.endswith('/manifest.json')
    # Changing a line end of a manifest may not change its meaning.
    if not self._same(state, progress) or not (original or manifest):
      raise Finding(f'taken with {name} changed')
    return f'{name}, the same state'

  def __init__(self, folder):
    self.seeds = {}
    super().__init__(folder)


class ForgedCheckpoints(Checkpoints):
  """The same with a matching manifest, so that Orbax reads any change."""

  def choose(self, rng):
    files = [name for name in self.seeds if not name.endswith('/manifest.json')]
    return rng.choice(files)

  def use(self, name):
    import jax

    from alexnet.checkpointing import manager
    from alexnet.checkpointing import manifest as manifest_lib
    from alexnet.inference import loading

    directory = self.folder / 'checkpoints' / str(self.step)
    manifest = directory / manifest_lib.FILE
    store = manager.Checkpoints(self.folder, 1)
    try:
      manifest.unlink()
      manifest_lib.write(directory)
      state, _ = self._restore()
      jax.tree.map(self._check_leaf, state, self.target)
      # Restored as for inference, without the rest of the state.
      shapes = store.variable_shapes(self.step)
      wanted = {'params': self.target['params']}
      loading.check_shapes(self.folder, self.step, shapes, wanted)
      variables = store.restore_variables(self.step, wanted)
      jax.tree.map(self._check_leaf, variables, wanted)
    finally:
      store.close()
      path = str(manifest.relative_to(self.folder))
      if path in self.seeds:
        manifest.write_bytes(self.seeds[path])
    return pathlib.PurePath(name).name

  def _check_leaf(self, got, wanted):
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
      raise Finding(f'{got.dtype} of shape {got.shape}')
