"""Runs any number of images through a device in batches of equal size.

Threads read the next images while the device computes, and what is in memory at
a time does not grow with their number.
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
  """Padded batch size, one of few, so that few programs are compiled.

  Args:
    count: number of images in it.
    most: the largest batch.

  Returns:
    `most`, or a smaller power of four.
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
    images: any number of them.
    read: from an image to what the device needs of it; called in threads.
    begin: gives the device up to `batch_size` of these, at least one, without
      waiting.
    finish: waits for what `begin` returned; at least as many results.
    batch_size: images in a batch.

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
