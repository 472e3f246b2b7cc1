"""Draws the network's input, with the mean added back.

  python -m input_pipeline.show --config=configs/alexnet.py --output=seen.png

A row per image: the file, its square with the crops of the next epochs drawn on
it, then these crops as the run with this config sees them, mirrored and with
lighting. `--set=evaluation` shows the ten views instead.
"""

from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image, ImageDraw, ImageFont, ImageOps

from input_pipeline import cli, datasets, preprocessing
from input_pipeline.errors import DataError, printable
from input_pipeline.files import paths
from input_pipeline.images import crops, decoding
from input_pipeline.sources import Source

# Side of a tile, in pixels; smaller images are enlarged.
_TILE = 256
_GAP = 8
_TEXT = 14
_COLORS = ('#d62728', '#1f77b4', '#2ca02c', '#ff7f0e', '#9467bd', '#8c564b')

Tile = tuple[Image.Image, str]


def training_rows(
    config: ml_collections.ConfigDict, count: int, epochs: int
) -> list[list[Tile]]:
  """Rows of training images, each with its crops in the first epochs.

  Args:
    config: the whole config.
    count: number of images.
    epochs: number of epochs.

  Returns:
    A row per image: (picture, caption) of the file; the square, or the whole
    image if crops are cut from that, with the crops; and each epoch.
  """
  # Imports TensorFlow, which takes seconds that --help does not need.
  from input_pipeline.pipeline import Pipeline

  train, evaluation = datasets.create_sources(config.dataset, config.seed)
  pipeline = Pipeline(config, train, evaluation)
  length = len(train)
  first = pipeline.plan(0, min(count, length)).index.tolist()
  plans_of = {index: [] for index in first}
  for epoch in range(epochs):
    order = pipeline.plan(epoch * length, length).index
    for index, plans in plans_of.items():
      place = epoch * length + int(np.argmax(order == index))
      plans.append(pipeline.plan(place, 1))
  rows = []
  for index, plans in plans_of.items():
    image, label, regions = _cut_from(train, index, plans, config)
    row = [
        _original(train, index, label),
        (_with_crops(image, regions), 'crops (top, left)'),
    ]
    for epoch, (plan, region) in enumerate(zip(plans, regions)):
      picture, caption = _as_seen(
          pipeline.crops(plan)[0], plan, pipeline.mean_image,
          config.augmentation,
      )
      place = f'({region.top:.0f}, {region.left:.0f})'
      row.append((picture, f'epoch {epoch + 1}: {place}{caption}'))
    rows.append(row)
  return rows


def evaluation_rows(
    config: ml_collections.ConfigDict, count: int
) -> list[list[Tile]]:
  """Rows of evenly spaced evaluation images, each with its ten views."""
  _, evaluation = datasets.create_sources(config.dataset, config.seed)
  names = ('top left', 'top right', 'bottom left', 'bottom right', 'centre')
  crop_size, size = config.augmentation.crop_size, config.dataset.size
  border = size - crop_size
  corners = [(y, x) for y in (0, border) for x in (0, border)]
  count = min(count, len(evaluation))
  rows = []
  for index in np.linspace(0, len(evaluation) - 1, count).astype(int).tolist():
    square, label = evaluation.resized(index, size - 2 * config.dataset.border)
    square = preprocessing.framed(
        square, config.dataset.border, config.dataset.channels
    )
    row = [_original(evaluation, index, label)]
    for mirrored in (False, True) if config.augmentation.flip else (False,):
      for name, (top, left) in zip(names, [*corners, (border // 2,) * 2]):
        box = preprocessing.Box(top, left, crop_size, size)
        crop = preprocessing.cut(square, box)
        if mirrored:
          crop, name = crop[:, ::-1], f'{name}, mirrored'
        row.append((_enlarged(_picture(crop)), name))
    rows.append(row)
  return rows


def _original(source: Source, index, label) -> Tile:
  encoded, _ = source.read(index)
  name = source.describe(index)
  image = decoding.decode(encoded, name, source.background)
  caption = f'{source.class_names[label]}, {image.width} x {image.height}'
  if decoding.has_more_pages(encoded):
    caption = f'first page, {caption}'
  image.thumbnail((_TILE, _TILE))
  return _enlarged(image), caption


def _cut_from(source, index, plans, config):
  """Returns the image that crops are cut from, its label, and their regions."""
  augmentation, dataset = config.augmentation, config.dataset
  if region_of := crops.of_config(augmentation):
    image, label = source.picture(index)
    return image, label, [
        region_of(plan.words[0].tolist(), *image.size) for plan in plans
    ]
  margin = dataset.border + augmentation.pad
  square, label = source.resized(index, dataset.size - 2 * dataset.border)
  square = preprocessing.framed(square, margin, dataset.channels)
  side = augmentation.crop_size
  return _picture(square), label, [
      crops.Region(*plan.offset[0].tolist(), side, side) for plan in plans
  ]


def _picture(pixels):
  """Returns [height, width, channels] uint8 as an RGB image."""
  return Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _enlarged(image):
  """Enlarges by a whole number, which keeps the pixels as they are."""
  times = max(1, _TILE // max(image.size))
  return ImageOps.scale(image, times, Image.Resampling.NEAREST)


def _with_crops(image, regions):
  image = image.copy()
  share = min(1, _TILE / max(image.size))
  width = 2 if max(image.size) >= _TILE // 2 else 1
  if share < 1:
    image.thumbnail((_TILE, _TILE))
  draw = ImageDraw.Draw(image)
  for number, (top, left, rows, columns) in enumerate(regions):
    color = _COLORS[number % len(_COLORS)]
    box = (left, top, left + columns - 1, top + rows - 1)
    draw.rectangle([x * share for x in box], outline=color, width=width)
  return _enlarged(image)


def _as_seen(pixels, plan, mean_image, augmentation) -> Tile:
  crop = augmentation.crop_size
  under = augmentation.mean_crop == 'under'
  if under:
    margin = (augmentation.pad, augmentation.pad)
    mean_image = np.pad(mean_image, (margin, margin, (0, 0)))
    top, left = plan.offset[0].tolist()
  else:
    top = left = (len(mean_image) - crop) // 2
  mean = preprocessing.cut(mean_image, preprocessing.Box(top, left, crop))
  caption = ''
  if plan.flip[0]:
    pixels = pixels[:, ::-1]
    mean = mean[:, ::-1] if under else mean
    caption += ' mirrored'
  shift, divisor = plan.shift[0], plan.divisor[0]
  if shift.any():
    caption += ' ' + ' '.join(f'{level:+.0f}' for level in shift)
  seen = (pixels - mean + shift) / divisor + mean
  seen = np.clip(seen, 0, 255).round().astype(np.uint8)
  return _enlarged(_picture(seen)), caption


def draw_grid(rows: Sequence[Sequence[Tile]], title: str) -> Image.Image:
  """Draws rows of captioned tiles as one picture."""
  font = ImageFont.load_default(_TEXT)
  side = _TILE
  width, height = side + _GAP, side + _GAP + _TEXT + 6
  columns = max(map(len, rows))
  grid = Image.new(
      'RGB', (columns * width + _GAP, len(rows) * height + 2 * _TEXT), 'white'
  )
  draw = ImageDraw.Draw(grid)
  draw.text((_GAP, 4), printable(title), 'black', font)
  for i, row in enumerate(rows):
    for j, (image, caption) in enumerate(row):
      left, top = j * width + _GAP, i * height + 2 * _TEXT
      grid.paste(image, (left, top))
      place = (left, top + image.height + 2)
      draw.text(place, _fitting(printable(caption), font, side), 'black', font)
  return grid


def _fitting(text, font, width):
  while font.getlength(text) > width:
    text = text[:-2] + '…'
  return text


def describe(config: ml_collections.ConfigDict) -> str:
  """Describes a config's augmentation in one line."""
  augmentation = config.augmentation
  if augmentation.crop == 'scale':
    parts = ['scaled to {} to {} pixels'.format(*augmentation.scale)]
  elif augmentation.crop == 'area':
    parts = ['{:.0%} to {:.0%} of the area'.format(*augmentation.area)]
  else:
    offsets = augmentation.crop_offsets
    parts = [f'{offsets} x {offsets} crops']
  if augmentation.images_per_crop > 1:
    parts.append(f'shared by {augmentation.images_per_crop} images')
  parts.append('half mirrored' if augmentation.flip else 'not mirrored')
  if augmentation.lighting == 'none':
    parts.append('no lighting')
  else:
    parts.append(
        f'lighting {augmentation.lighting_scale} x {augmentation.lighting}, '
        f'divided by {augmentation.lighting_divisor}'
    )
  return ', '.join(parts)


def main(argv: list[str]) -> None:
  """Entry point of `python -m input_pipeline.show`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  for name in ('images', 'epochs'):
    if values[name].value < 1:
      raise DataError(f'--{name} is {values[name].value}: expected at least 1')
  config, output = values.config, values.output
  if output.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
    raise DataError(f'--output is {output}: expected a .png or .jpg file')
  if values.set == 'train':
    rows = training_rows(config, values.images, values.epochs)
    title = describe(config)
  else:
    rows = evaluation_rows(config, values.images)
    title = 'views of the evaluation'
  output.parent.mkdir(parents=True, exist_ok=True)
  draw_grid(rows, f'{config.dataset.name}: {title}').save(
      output, quality=80
  )
  print(f'{output}: {len(rows)} images, {title}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
      'config', None, 'File of the config, FILE[:DATASET], as for main.py.'
  )
  paths.define('output', 'Draw the images to this .png or .jpg file.')
  flags.DEFINE_integer('images', 4, 'Number of images.')
  flags.DEFINE_integer('epochs', 5, 'Number of epochs to look ahead.')
  flags.DEFINE_enum(
      'set', 'train', ('train', 'evaluation'), 'Set whose images are shown.'
  )
  flags.mark_flags_as_required(['config', 'output'])
  cli.run(main)
