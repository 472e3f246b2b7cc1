"""Memory that a step has used stays with the process, for the next step.

A step on a CPU works in some gigabytes. By default glibc gives them back to the
system after each step, which clears every page again before the next step gets
it: a sixth of the time of a step.
"""

import ctypes
import functools
import mmap
import os
import time

from alexnet.runtime.gpu import accelerators

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# With less memory than this the process had better give back what it can.
_SMALLEST_MACHINE = 15 * 2**30
# Addresses, not memory, marked for huge pages: a step of 128 images, and room.
_RESERVE = 12 * 2**30

# Working memory smaller than this finds a place anywhere.
_SMALL = 64 * 2**20
# What glibc wants beside an aligned block, and more.
_MARGIN = 128
# Free blocks for what a step asks for beside its working memory: convolutions
# for 12 to 99 MB each, the loop for batches. A request is cut out of the
# smallest free block that it fits into.
_FREE_BLOCKS = tuple(
    size * 2**20 for size in 24 * (64,) + 12 * (112,) + 14 * (160,)
)
# So many other free blocks of a program's size are looked for.
_BETTER = 8
# Free addresses after working memory: more than any of those blocks, so that
# nothing is cut out of them as long as there are others.
_AFTER = 256 * 2**20
# Addresses before it, which nobody touches. They are added to it in steps; what
# is smaller than a thousand bytes would go to a list that keeps it apart.
_BEFORE = 512 * 2**20
_STEP = 2**11
# Free pieces of these sizes are in glibc's lists by size, which it goes through
# one by one; what is larger is useful.
_SMALLEST_PIECE = 2**10
_LARGEST_PIECE = 2**24

_kept = False
_rooms = []


def keep_freed() -> bool:
  """Lets this process keep what it frees; call it before anything large.

  All memory then comes from one heap, in huge pages where the system has them,
  and the heap does not shrink; on CPUs a step is not dispatched before the last
  one has ended. The process is then always as large as otherwise in a step.
  Only with glibc, and 15 GiB of memory or more; and not where JAX is going to
  compute on something else than CPUs, whose steps do not work in this memory.

  Returns:
    Whether it does so now.
  """
  global _kept
  if accelerators.expected():
    return False
  try:
    libc = _libc()
    mallopt = libc.mallopt
  except (AttributeError, OSError, TypeError):  # macOS, musl, Windows.
    return False
  physical = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if physical < _SMALLEST_MACHINE:
    return False
  # The arenas of other threads cannot hold a large block, which would then have
  # a mapping of its own after all.
  mallopt(_M_ARENA_MAX, 1)
  mallopt(_M_MMAP_MAX, 0)
  mallopt(_M_TRIM_THRESHOLD, -1)
  libc.free(_in_huge_pages(_RESERVE))
  _kept = True
  import jax  # After the heap is prepared, and a second that --help can save.

  # Otherwise a step may begin before the last one's memory is free, and then
  # there is twice as much, or three times.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  return True


def is_kept() -> bool:
  """Whether `keep_freed` was called, and could do it."""
  return _kept


def make_room(size: int, count: int) -> None:
  """Gives programs' working memory a place, where each call finds it again.

  Call it when the programs are compiled, before they run. Without `keep_freed`,
  or when there is enough room already, it does nothing. All programs work in
  the same place: one that wants more gets a larger one for all of them, and the
  smaller is left without memory.

  Args:
    size: bytes of a program's working memory, one block.
    count: of programs that run at the same time.
  """
  if not _kept or size < _SMALL or any(room.size >= size for room in _rooms):
    return
  if _rooms:
    keep_room()
  # What starting and compiling took, which nobody will use, and smaller rooms.
  give_back()
  if _rooms:
    # Those stay in use, without memory: otherwise smaller programs would go on
    # in them, and there would be two places.
    _take_rooms(_rooms[0].size)
  _take_pieces()
  # Everything is taken before anything is freed, as the next would be cut out
  # of that.
  rooms = [_Room(size) for _ in range(count)]
  if not _rooms:
    blocks = [_in_huge_pages(size) for size in _FREE_BLOCKS]
    for block in filter(None, blocks):
      # The first page stays in use, so that the free ones do not become one.
      _libc().realloc(block, mmap.PAGESIZE)
  _rooms[:] = [room for room in rooms if room.first]
  for room in _rooms:
    room.open(_BEFORE)
  # Free blocks that would fit better than the rooms stay in use.
  _free(_take_rooms(size))
  # The first pages of all those blocks, which may be huge.
  give_back()


def give_back() -> None:
  """Gives what is free at the moment to the system, as if never used.

  Call it after something that is seldom done, and takes more memory than what
  follows. That takes new pages, once: a tenth of a second for each gigabyte.
  """
  if _kept:
    # The addresses above all blocks are kept.
    _libc().malloc_trim(_RESERVE)


def keep_room() -> None:
  """Sees to it that working memory fits into its place.

  Call it before a program. glibc asks for a little more than an aligned block
  has, and frees what is left at its end. Somebody who wants so little gets it,
  and while he has it the next block does not fit: it would get new pages,
  gigabytes of them.
  """
  closed = _closed_rooms()
  if len(_rooms) > 1:  # A result is there before its program's memory is free.
    for _ in range(10):
      if not closed:
        return
      time.sleep(0.001)
      closed = _closed_rooms()
  for room in closed:
    room.widen()


def _take_rooms(size):
  """Takes a free block of each room, and any that fits better, for good.

  Returns:
    Addresses of the former.
  """
  blocks = []
  for _ in range(len(_rooms) + _BETTER):
    if len(blocks) == len(_rooms):
      break
    block = _libc().malloc(size + _MARGIN)
    if any(block and block in room for room in _rooms):
      blocks.append(block)
  return blocks


def _free(blocks):
  for block in filter(None, blocks):
    _libc().free(block)


def _closed_rooms():
  """Those that have no free block of their size."""
  libc = _libc()
  blocks = [libc.malloc(room.size + _MARGIN) for room in _rooms]
  closed = [
      room
      for room in _rooms
      if not any(block and block in room for block in blocks)
  ]
  _free(blocks)
  return closed


class _Room:
  """A place in the heap: its front is in use, and the rest is free.

  Attributes:
    size: bytes of the working memory that it is for.
    first: its address; None if there are no addresses for it.
  """

  def __init__(self, size):
    self.size = size
    self._length = _BEFORE + size + _AFTER
    self._front = self._length
    self.first = _in_huge_pages(self._length)

  def open(self, front):
    """Frees what is not among the first `front` bytes."""
    self._front = front
    # To where an aligned block begins (16 bytes are glibc's own, before each),
    # so that nothing is left over before it either.
    start = (self.first + front) // 64 * 64
    _libc().realloc(self.first, start - 8 - self.first)

  def widen(self):
    """Frees a little more."""
    if self._front > _STEP:
      self.open(self._front - _STEP)

  def __contains__(self, block):
    return self.first < block < self.first + self._length


def _take_pieces():
  """Takes the free pieces of the heap for good.

  The compiler leaves thousands of each size, some 0.4 GB. Later requests would
  each look for the one that fits best, which took a tenth of a step's time.
  """
  libc = _libc()
  # From above all pieces, as it is larger than any.
  end = libc.malloc(_RESERVE // 2)
  if not end:
    return
  useful = []
  # Otherwise pieces would be cut out of those that are there.
  for size in _FREE_BLOCKS:
    block = libc.malloc(size - 2 * mmap.PAGESIZE) or end
    if block >= end:
      _free([block] if block > end else ())
      break
    useful.append(block)
  size = _RESERVE // 2
  while size >= _SMALLEST_PIECE:
    size //= 2
    while (piece := libc.malloc(size) or end) < end:
      if size > _LARGEST_PIECE:
        useful.append(piece)
    if piece > end:
      libc.free(piece)
  _free((*useful, end))


def _in_huge_pages(size):
  """A block of the heap; None where addresses are limited (`ulimit -v`)."""
  libc = _libc()
  block = libc.malloc(size)
  if block:
    first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(first, size - (first - block), mmap.MADV_HUGEPAGE)
  return block


@functools.cache
def _libc():
  libc = ctypes.CDLL(None)
  libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
  libc.malloc.argtypes = (ctypes.c_size_t,)
  libc.realloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
  libc.free.argtypes = (ctypes.c_void_p,)
  libc.malloc_trim.argtypes = (ctypes.c_size_t,)
  libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
  return libc
