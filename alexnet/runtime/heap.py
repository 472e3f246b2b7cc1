"""A heap that keeps the memory of a step for the next step.

A step on a CPU needs some gigabytes. By default, glibc returns them to the
system after each step, and the system clears every page before the next step
gets it, which takes a sixth of the time of a step.
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

# On machines with less memory than this, the process keeps no freed memory.
_SMALLEST_MACHINE = 15 * 2**30
# Bytes of addresses (not memory) marked for huge pages; more than a step of 128
# images needs.
_RESERVE = 12 * 2**30

# Working memory smaller than this needs no reserved place.
_SMALL = 64 * 2**20
# Bytes that glibc needs beside an aligned block, and more.
_MARGIN = 128
# Free blocks for a step's other memory: convolutions allocate 12 to 99 MB each,
# and the training loop allocates batches. glibc cuts an allocation out of the
# smallest free block that it fits into.
_FREE_BLOCKS = tuple(
    size * 2**20 for size in 24 * (64,) + 12 * (112,) + 14 * (160,)
)
# Most free blocks of a program's size that are looked for beside the rooms.
_BETTER = 8
# Free bytes after the working memory in a room; more than any of those blocks
# has, so that glibc cuts nothing out of them as long as it has such blocks.
_AFTER = 256 * 2**20
# Unused bytes before the working memory, which are added to it in steps; glibc
# would keep pieces of less than a thousand bytes in a separate list.
_BEFORE = 512 * 2**20
_STEP = 2**11
# glibc keeps free pieces of these sizes in lists, which it searches piece by
# piece; larger pieces are useful.
_SMALLEST_PIECE = 2**10
_LARGEST_PIECE = 2**24

_kept = False
_rooms = []


def keep_freed() -> bool:
  """Makes this process keep the memory that it frees.

  Call it before the process allocates anything large. All memory then comes
  from one heap, in huge pages where the system has them, and the heap does not
  shrink: the process stays as large as it is during a step. On CPUs, a step is
  dispatched only after the last one has ended.

  Does nothing without glibc, with less than 15 GiB of memory, or if JAX will
  compute on accelerators, whose steps do not use this memory.

  Returns:
    True if the process now keeps its memory.
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
  # The arenas of other threads cannot hold large blocks, which would then be
  # mapped separately.
  mallopt(_M_ARENA_MAX, 1)
  mallopt(_M_MMAP_MAX, 0)
  mallopt(_M_TRIM_THRESHOLD, -1)
  libc.free(_in_huge_pages(_RESERVE))
  _kept = True
  import jax  # After the heap is prepared; slow, and not needed by --help.

  # Otherwise a step may start before the memory of the last one is free, and
  # the process needs two or three times as much.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  return True


def is_kept() -> bool:
  """Returns whether `keep_freed` was called and had an effect."""
  return _kept


def make_room(size: int, count: int) -> None:
  """Reserves rooms in the heap for the working memory of programs.

  Call it after a program is compiled and before it runs. Does nothing without
  `keep_freed`, or if the rooms are large enough already. All programs use the
  same rooms: if a program needs more, larger rooms replace the smaller ones,
  whose memory is returned to the system.

  Args:
    size: bytes of a program's working memory, which is one block.
    count: number of programs that run at the same time.
  """
  if not _kept or size < _SMALL or any(room.size >= size for room in _rooms):
    return
  if _rooms:
    keep_room()
  # Returns memory that the start and the compiler used, and smaller rooms.
  give_back()
  if _rooms:
    # Smaller rooms stay allocated, without memory: otherwise smaller programs
    # would continue to use them, and both would take memory.
    _take_rooms(_rooms[0].size)
  _take_pieces()
  # Everything is allocated before anything is freed, because glibc would cut
  # the next block out of the freed one.
  rooms = [_Room(size) for _ in range(count)]
  if not _rooms:
    blocks = [_in_huge_pages(size) for size in _FREE_BLOCKS]
    for block in filter(None, blocks):
      # The first page stays allocated, so that free blocks do not merge.
      _libc().realloc(block, mmap.PAGESIZE)
  _rooms[:] = [room for room in rooms if room.first]
  for room in _rooms:
    room.open(_BEFORE)
  # Free blocks that would fit better than the rooms stay allocated.
  _free(_take_rooms(size))
  # Returns the first pages of all those blocks, which may be huge pages.
  give_back()


def give_back() -> None:
  """Returns the memory that is free now to the system.

  Call it after rare work that needs more memory than the work after it. That
  work gets new pages once, which takes a tenth of a second per gigabyte.
  """
  if _kept:
    # Keeps the addresses above all blocks.
    _libc().malloc_trim(_RESERVE)


def keep_room() -> None:
  """Ensures that working memory fits into its rooms.

  Call it before a program runs. glibc needs a little more than the size of an
  aligned block, and frees the rest at the end of the block. While a small
  allocation occupies this rest, the next block does not fit into the room, and
  would get gigabytes of new pages.
  """
  closed = _closed_rooms()
  if len(_rooms) > 1:  # A result is ready before its program's memory is free.
    for _ in range(10):
      if not closed:
        return
      time.sleep(0.001)
      closed = _closed_rooms()
  for room in closed:
    room.widen()


def _take_rooms(size):
  """Allocates a free block of each room, and blocks that fit better, for good.

  Returns:
    Addresses of the rooms' blocks.
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
  """Returns the rooms that have no free block of their size."""
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
  """A part of the heap whose front stays allocated and whose rest is free.

  Attributes:
    size: bytes of working memory that the room is for.
    first: address of the room; None if it could not be allocated.
  """

  def __init__(self, size):
    self.size = size
    self._length = _BEFORE + size + _AFTER
    self._front = self._length
    self.first = _in_huge_pages(self._length)

  def open(self, front):
    """Frees all but the first `front` bytes."""
    self._front = front
    # The free part starts where an aligned block can start (16 bytes before
    # each are glibc's own), so that nothing is left over before the block.
    start = (self.first + front) // 64 * 64
    _libc().realloc(self.first, start - 8 - self.first)

  def widen(self):
    """Frees another `_STEP` bytes of the front, if it has them."""
    if self._front > _STEP:
      self.open(self._front - _STEP)

  def __contains__(self, block):
    return self.first < block < self.first + self._length


def _take_pieces():
  """Allocates the free pieces of the heap for good.

  The compiler leaves thousands of pieces of each size, about 0.4 GB. Each later
  allocation would search them for the best fit, which took a tenth of the time
  of a step.
  """
  libc = _libc()
  # Lies above all pieces, because it is larger than any of them.
  end = libc.malloc(_RESERVE // 2)
  if not end:
    return
  useful = []
  # Useful blocks are allocated first, so that no pieces are cut out of them.
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
  """Allocates a block marked for huge pages; None if `ulimit -v` forbids it."""
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
