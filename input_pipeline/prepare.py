"""Prepares data once: 256 x 256 images on disk, with their statistics (§2).

With --keep_aspect images stay rectangles, for networks whose training crops
come from whole images (`augmentation.crop` in configs/alexnet.py).

  python -m input_pipeline.prepare --source=PHOTOS --output=DIR
  python main.py --config=configs/alexnet.py:prepared \
      --config.dataset.dir=DIR --workdir=runs/photos

`prepared/origins.py` explains the sources and `prepared/reader.py` the format.
An interrupted preparation continues when the command is run again; the result
is the same to the byte. In a cluster each of n jobs prepares a part of the same
directory, and one job combines them:

  python -m input_pipeline.prepare --source=S --output=DIR --part=0/n ... n-1/n
  python -m input_pipeline.prepare --source=S --output=DIR --merge
"""

import shlex
import shutil

from absl import app, flags

from input_pipeline import cli, preprocessing
from input_pipeline.errors import NO_ROOM, DataError, printable
from input_pipeline.files import paths
from input_pipeline.files.names import sets_warning
from input_pipeline.images import allowed
from input_pipeline.prepared import origins, reader
from input_pipeline.prepared.writer import (
  DEFAULT_QUALITY,
  STORAGES,
  Preparation,
  Settings,
  check_output,
  unfinished,
)
from input_pipeline.sources import COPIES, copies_warning

# Entries shown of a long list.
_SHOWN_CLASSES = 5


def _parse_part(text):
  try:
    part, parts = map(int, text.split('/'))
  except ValueError:
    part, parts = 0, 0
  if not 0 <= part < parts:
    raise DataError(
        f"--part is '{text}': expected I/N, the number of the part from 0 and "
        'that of all parts'
    )
  return part, parts


def _parse_background(text):
  try:
    background = tuple(map(int, text.split(',')))
  except ValueError:
    background = ()
  if not (background and allowed.is_background(background)):
    raise DataError(
        f"--background is '{text}': expected three levels from 0 to 255, such "
        'as 255,255,255'
    )
  return background


def _check_flags(values):
  _parse_background(values.background)
  if not 1 <= values.quality <= 100:
    raise DataError(f'--quality is {values.quality}: expected 1 to 100')
  if not 0 <= values.eval_fraction < 1:
    raise DataError(
        f'--eval_fraction is {values.eval_fraction}: expected at least 0 and '
        'less than 1'
    )
  if values.workers is not None and values.workers < 1:
    raise DataError(f'--workers is {values.workers}: expected at least 1')
  if not 1 <= values.size <= allowed.LARGEST_SQUARE:
    raise DataError(
        f'--size is {values.size}: expected 1 to {allowed.LARGEST_SQUARE}'
    )
  if values.keep_aspect and values.aspect == 'warp':
    raise DataError(
        '--keep_aspect keeps the shape of images and --aspect=warp changes it: '
        'leave one out'
    )
  if values.seed < 0:
    raise DataError(f'--seed is {values.seed}: expected at least 0')
  if values.part:
    _parse_part(values.part)
  if values.part and values.merge:
    raise DataError('--part and --merge exclude each other: merge at the end')


def _check_room(wanted, output):
  free = shutil.disk_usage(output).free
  if wanted > free:
    print(
        f'warning: this will need about {wanted / 1e9:.1f} GB, but '
        f'{printable(str(output))} has {free / 1e9:.1f} GB free'
    )


def _check_place(source, output):
  source = paths.local(source, '--source')
  if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
    raise DataError(
        f'{printable(str(output))} is in the source, and would be taken for '
        'one of its classes: set --output to a folder elsewhere'
    )


def _announce(sets):
  for name, source in sets.items():
    print(f'{name:10s} {len(source):,} images of {source.name}')
    if source.ignored:
      print(f'           left out: {source.ignored}')
  classes = sets['train'].class_names
  shown = [printable(name) for name in classes[:_SHOWN_CLASSES]]
  shown += ['...'] * (len(classes) > len(shown))
  print(f'classes    {len(classes):,}: {", ".join(shown)}')
  if warning := sets_warning(classes):
    print(f'warning: {warning}')
  if 'evaluation' not in sets:
      print('           no evaluation set, which training needs')
  elif warning := copies_warning(
      sets['train'],
      sets['evaluation'],
      'remove them from one of the two, or where a part is held out set '
      '--copies=together and another --output',
  ):
    print(f'warning: {warning}')


def _prepare(values, output):
  _check_place(values.source, output)
  output.mkdir(parents=True, exist_ok=True)
  check_output(output)  # Before gigabytes are decompressed.
  train, evaluation = origins.open_origin(
      values.source,
      scratch=unfinished(output),
      eval_source=values.eval_source,
      eval_labels=values.eval_labels,
      eval_fraction=values.eval_fraction,
      seed=values.seed,
      copies=values.copies,
      data_dir=values.data_dir,
      train_split=values.train_split,
      eval_split=values.eval_split,
  )
  sets = {'train': train}
  if evaluation is not None:
    sets['evaluation'] = evaluation
  _announce(sets)
  raw = values.storage == 'raw'
  settings = Settings(
      values.storage,
      None if raw else values.quality,
      reader.RECTANGLE if values.keep_aspect else values.aspect,
      values.size,
      _parse_background(values.background),
  )
  preparation = Preparation(
      sets,
      output,
      settings,
      origin=values.source,
      strict=values.strict,
      workers=values.workers,
  )
  if preparation.finished:
    place = printable(str(output))
    if values.strict and (output / reader.REJECTED).stat().st_size:
      raise DataError(
          f'{place} is prepared already, and {reader.REJECTED} in it has bad '
          'images: fix them, and set --output to a new folder'
      )
    print(f'{place} is prepared already')
    return
  if raw:
    size = 3 * values.size**2
    if values.keep_aspect:
      size *= 4 / 3  # As most photos have it.
    _check_room(size * sum(map(len, sets.values())), output)
  if not values.merge:
    preparation.run(*(_parse_part(values.part) if values.part else (0, 1)))
    if preparation.left_out:
      print(f'left out   {preparation.left_out}')
  if values.part:
    print(f'part {values.part} is done; after all parts, run --merge')
    return
  _report(preparation.merge(), output)


def _report(manifest, output):
  place = printable(str(output))
  for name, about in manifest['sets'].items():
    size = sum(shard['bytes'] for shard in about['shards'])
    print(
        f'{name:10s} {about["images"]:,} images, {about["rejected"]:,} '
        f'rejected, {size / 1e6:,.1f} MB'
    )
  if any(about['rejected'] for about in manifest['sets'].values()):
    print(f'{place}/{reader.REJECTED} says which, and why')
  without = [
      name
      for name, count in zip(
          manifest['class_names'], manifest['sets']['train']['images_of_class']
      )
      if not count
  ]
  if without:
    print(
        f'warning: {len(without)} class(es) have no training image: '
        f'{printable(", ".join(without[:5]))}'
    )
  # ImageNet has principal colours of its own, which are built in.
  classes = manifest['class_names']
  imagenet = len(classes) == 1000 and classes[0] == 'n01440764'
  print(
      'train with --config=configs/alexnet.py:'
      f'{"imagenet2012" if imagenet else "prepared"} '
      f'--config.dataset.dir={printable(shlex.quote(str(output)))}'
  )


def main(argv: list[str]) -> None:
  """Entry point of `python -m input_pipeline.prepare`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  output = values.output
  if values.verify:
    count = reader.verify(output)
    print(f'{count} files of {printable(str(output))} are as they were written')
    return
  if not values.source:
    raise DataError('--source is not set: expected the data to prepare')
  _check_flags(values)
  try:
    _prepare(values, output)
  except KeyboardInterrupt as error:
    raise DataError(
        f'interrupted; what is finished stays in {output}: run the same '
        'command again to continue'
    ) from error
  except OSError as error:
    if error.errno not in NO_ROOM:
      raise
    raise DataError(
        f'no room in {output} ({error.strerror}): what is finished stays '
        'there; free some room and run the same command again to continue'
    ) from error


def _define_flags():
  flags.DEFINE_string(
      'source', None,
      "Data to prepare: the path of a folder or an archive, 'digits', or "
      "'tfds:NAME'; see prepared/origins.py.",
  )
  paths.define('output', 'Folder to write the prepared data to.')
  paths.define(
      'eval_source', 'Path of the evaluation set, if it is elsewhere.'
  )
  paths.define(
      'eval_labels',
      'Labels of an eval_source without class folders: a text or CSV file, see '
      "docs/data.md, or ImageNet's development kit. Not needed for "
      'ImageNet-2012, whose labels are built in.',
  )
  flags.DEFINE_float(
      'eval_fraction', 0.1,
      'Share of each class to hold out if there is no evaluation set.',
  )
  flags.DEFINE_integer('seed', 0, 'Seed that selects the held-out images.')
  flags.DEFINE_enum(
      'copies', COPIES[0], COPIES,
      'Action for equal files when images are held out: warn if they are in '
      'both sets, or keep them in one set.',
  )
  paths.define('data_dir', 'Folder of TensorFlow Datasets.')
  flags.DEFINE_string(
      'train_split', 'train', 'Training split of TensorFlow Datasets.'
  )
  flags.DEFINE_string(
      'eval_split', 'validation', 'Evaluation split of TensorFlow Datasets.'
  )
  flags.DEFINE_enum(
      'storage', 'jpeg', STORAGES,
      'Store images as JPEG files, or as raw pixels, which take seven times '
      'the disk space and are faster to read.',
  )
  flags.DEFINE_integer('quality', DEFAULT_QUALITY, 'JPEG quality, 1 to 100.')
  flags.DEFINE_enum(
      'aspect', 'keep', preprocessing.ASPECTS,
      "'keep' crops the centre square, as the authors did; 'warp' squeezes the "
      'whole image into it, for comparison.',
  )
  flags.DEFINE_bool(
      'keep_aspect', False,
      'Store whole images, rectangles whose shorter side is --size. The ends '
      f'beyond {preprocessing.LONGEST} times the shorter side are cut off.',
  )
  flags.DEFINE_integer(
      'size', preprocessing.SQUARE,
      'Side of the squares, or shorter side of the rectangles, in pixels.',
  )
  flags.DEFINE_string(
      'background', '255,255,255',
      'Colour behind transparent pixels: levels of red, green and blue.',
  )
  flags.DEFINE_bool('strict', False, 'Stop at the first bad image.')
  flags.DEFINE_string(
      'part', None,
      'Prepare one part, I/N: part I of N, counted from 0. Run with --merge '
      'after all parts.'
  )
  flags.DEFINE_bool('merge', False, 'Combine the parts made with --part.')
  flags.DEFINE_bool('verify', False, 'Only check the files of --output.')
  flags.DEFINE_integer(
      'workers', None, 'Number of threads. Default: one per core.'
  )
  flags.mark_flag_as_required('output')


if __name__ == '__main__':
  _define_flags()
  cli.run(main, finishes=True)
