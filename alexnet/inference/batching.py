"""Runs any number of images through a device in batches of equal size.

Threads read the next images while the device computes. Memory use does not
grow with the number of images.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

from input_pipeline.errors import ImageError
from input_pipeline.files import threads

Image = TypeVar('Image')
Item = TypeVar('Item')
Pending = TypeVar('Pending')
Result = TypeVar('Result')


def padded(count: int, most: int) -> int:
  """Returns a padded batch size, so that few programs are compiled.

  Args:
    count: number of images in the batch.
    most: largest batch size.

  Returns:
    The smallest power of four that is at least `count`, or `most`.
  """
  size = 1
  while size < count:
    size *= 4
  return min(size, most)


def stream(
    images: Iterable[Image],
    read: Callable[[Image], Item],
    begin: Callable[[list[Item]], Pending],
    finish: Callable[[Pending], Sequence[Result]],
    batch_size: int,
) -> Iterator[Result | ImageError]:
  """Yields a result for each image, in order.

  Args:
    images: any number of images.
    read: converts an image to the device's input; called in threads.
    begin: starts the computation for 1 to `batch_size` inputs, without
      waiting.
    finish: waits for what `begin` returned; returns a result for each input,
      and possibly more.
    batch_size: number of images in a batch.

  Yields:
    A result, or the ImageError that `read` raised.
  """

  def read_or_error(image):
    try:
      return read(image)
    except ImageError as error:
      return error

  def begin_good(entries):
    good = [e for e in entries if not isinstance(e, ImageError)]
    return entries, begin(good) if good else None

  def finish_all(entries, pending):
    results = iter(() if pending is None else finish(pending))
    for entry in entries:
      yield entry if isinstance(entry, ImageError) else next(results)

  with futures.ThreadPoolExecutor(threads.cores()) as pool:
    entries = threads.in_order(
        pool, read_or_error, images, ahead=2 * batch_size
    )
    under_way = collections.deque()
    while batch := [*itertools.islice(entries, batch_size)]:
      under_way.append(begin_good(batch))
      if len(under_way) > 1:
        yield from finish_all(*under_way.popleft())
    for batch in under_way:
      yield from finish_all(*batch)
