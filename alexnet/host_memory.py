"""Memory that a step has used stays with the process, for the next step.

A step on a CPU works in some gigabytes. By default glibc gives them back to the
system after each step, which clears every page again before the next step gets
it: a sixth of the time of a step.
"""

import ctypes
import mmap
import os

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MXFAST = 1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# With less memory than this the process had better give back what it can.
_SMALLEST_MACHINE = 15 * 2**30
# Addresses, not memory, marked for huge pages: a step of 128 images, and room.
_RESERVE = 12 * 2**30
# Sizes of free blocks to begin with, in MiB. What is smaller than a step's
# block is taken from the smallest of them that it fits into; without them it
# would be cut out of the step's block, which the next step then could not use.
# Found by trying, for what asks: convolutions for 12 to 99 MB to work in, fc6's
# arrays for 151 MB.
_FREE_BLOCKS = 24 * (64,) + 12 * (112,) + 14 * (160,) + 4 * (256,) + 3 * (512,)


def keep_freed() -> bool:
  """Lets this process keep what it frees; call it before anything large.

  All memory then comes from one heap, in huge pages where the system has them,
  and the heap does not shrink; on CPUs a step is not dispatched before the last
  one has ended. The process's largest size grows by about a quarter. Only with
  glibc, and 15 GiB of memory or more.

  Returns:
    Whether it does so now.
  """
  try:
    libc = ctypes.CDLL(None)
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
  # What is left of a block by its alignment joins its neighbours. In a list of
  # small pieces somebody takes it, and the next step's block does not fit.
  mallopt(_M_MXFAST, 0)
  mallopt(_M_TRIM_THRESHOLD, -1)
  _prepare_heap(libc)
  import jax  # After the heap is prepared, and a second that --help can save.

  # Otherwise a step may begin before the last one's memory is free, and then
  # there is twice as much, or three times.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  return True


def _prepare_heap(libc):
  libc.malloc.restype = ctypes.c_void_p
  libc.malloc.argtypes = (ctypes.c_size_t,)
  libc.free.argtypes = (ctypes.c_void_p,)
  libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
  reserve = libc.malloc(_RESERVE)
  if not reserve:  # A limit on addresses, as by `ulimit -v`.
    return
  first = -(-reserve // mmap.PAGESIZE) * mmap.PAGESIZE
  libc.madvise(first, _RESERVE - (first - reserve), mmap.MADV_HUGEPAGE)
  libc.free(reserve)
  blocks = []
  for size in _FREE_BLOCKS:
    blocks.append(libc.malloc(size * 2**20))
    libc.malloc(mmap.PAGESIZE)  # Stays, so that neighbours do not join.
  for block in blocks:
    libc.free(block)
