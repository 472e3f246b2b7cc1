"""Extracts features of images and writes them to a file."""

import functools
import itertools

import numpy as np

from alexnet.analysis.features.images import Images
from alexnet.analysis.features.store import Writer
from alexnet.inference.predictor import TrainedNetwork
from alexnet.metrics.console import Console, Silence
from input_pipeline.errors import ImageError


def extract(
    network: TrainedNetwork,
    images: Images,
    layer: str,
    writer: Writer,
    *,
    limit: int | None = None,
    console: Console | None = None,
) -> list[str]:
  """Writes a layer's features of images in bounded memory.

  Uses only the first `limit` images if given. Does not close the writer.

  Returns:
    A message for each image that was left out.

  Raises:
    ConfigError: there is no such layer.
    DataError: the images cannot be read at all.
  """
  count = len(images) if limit is None else min(limit, len(images))
  left_out = []
  batch = min(count, network.config.evaluation_batch_size)
  # A generator: a list could have a million entries.
  readers = (functools.partial(images.square, i) for i in range(count))
  results = enumerate(network.stream(readers, layer=layer, batch_size=batch))
  with (console or Silence()).bar(layer, count) as bar:
    while part := [*itertools.islice(results, batch)]:
      left_out += [str(row) for _, row in part if isinstance(row, ImageError)]
      good = [(i, row) for i, row in part if not isinstance(row, ImageError)]
      if good:
        indices, rows = zip(*good)
        writer.add(
            np.stack(rows), images.labels[[*indices]], np.array(indices),
            [*map(images.source.relative_name, indices)],
        )
      bar.update(len(part))
  return left_out
