"""That memory which was freed is used again, without new pages."""

import subprocess
import sys

from absl.testing import absltest, parameterized

# In a process of its own: it cannot be undone. The same block twice, written
# to, and in between one that is smaller and stays.
_PROGRAM = """
import resource
import numpy as np
from alexnet.runtime import heap

if {keep}:
  print(int(heap.keep_freed()))
else:
  print(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = np.ones(2**28, np.uint8)
del block
small = np.ones(2**24, np.uint8)
before = faults()
block = np.ones(2**28, np.uint8)
print(faults() - before)
"""

# Twenty times a program's block, and then whoever takes what glibc leaves at
# the block's ends. In how many places the blocks were: two within half a block
# of each other are in the same, wherever the heap begins.
_ROOM = """
import ctypes
from alexnet.runtime import heap

print(int(heap.keep_freed()))
libc = heap._libc()
libc.memalign.restype = ctypes.c_void_p
libc.memalign.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
size = 2**29
heap.make_room(size, {count})
addresses = []
for _ in range(20):
  if {keep}:
    heap.keep_room()
  blocks = [libc.memalign(64, size) for _ in range({count})]
  for length in range(8, 200, 8):
    for _ in range(100):
      libc.malloc(length)
  for block in blocks:
    addresses.append(block)
    libc.free(block)
addresses.sort()
print(1 + sum(b - a > size // 2 for a, b in zip(addresses, addresses[1:])))
"""

_RESIDENT = """
def resident():
  with open('/proc/self/statm') as file:
    return 4096 * int(file.read().split()[1])
"""

# What was written to and freed before there is room for programs: how many
# bytes of it the process still has, and of the room before anybody uses it.
_START = """
import numpy as np
from alexnet.runtime import heap
{resident}
print(int(heap.keep_freed()))
before = resident()
kept = [np.ones(2**24, np.uint8)]
block = np.ones(2**28, np.uint8)
kept += [np.ones(2**24, np.uint8)]
del block
heap.make_room(2**29, 1)
print(resident() - before - 2**25)
"""

# A program's block, then a larger program's, then the first one's again: how
# many bytes the process has more than the larger block, and how far the last
# block is from it. Then what is left when all is given back.
_LARGER = """
import ctypes
from alexnet.runtime import heap
{resident}
print(int(heap.keep_freed()))
libc = heap._libc()
libc.memalign.restype = ctypes.c_void_p
libc.memalign.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
before = resident()

def work(size):
  heap.make_room(size, {count})
  heap.keep_room()
  blocks = [libc.memalign(64, size) for _ in range({count})]
  for block in blocks:
    ctypes.memset(block, 1, size)
  for block in blocks:
    libc.free(block)
  return blocks

work(2**28)
larger = work(2**29)
smaller = work(2**28)
print(resident() - before - {count} * 2**29)
print(max(abs(a - b) for a, b in zip(sorted(larger), sorted(smaller))))
heap.give_back()
print(resident() - before)
"""


class HostMemoryTest(parameterized.TestCase):

  def numbers(self, program, **values):
    """What a process printed, after the word that it keeps what it frees."""
    output = subprocess.run(
        [sys.executable, '-c', program.format(**values)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if output[0] == '0':
      self.skipTest('not with this C library, or too little memory')
    return [int(number) for number in output[1:]]

  def faults(self, keep):
    (faults,) = self.numbers(_PROGRAM, keep=keep)
    return faults

  def test_a_second_block_takes_the_pages_of_the_first(self):
    self.assertLess(self.faults(keep=True), 100)

  def test_by_default_it_does_not(self):
    self.faults(keep=True)  # Skips where there is nothing to see.
    # 2**28 bytes in pages of 4096; fewer where pages are larger.
    self.assertGreater(self.faults(keep=False), 100)

  @parameterized.parameters(1, 2)
  def test_working_memory_stays_where_it_is(self, count):
    (places,) = self.numbers(_ROOM, count=count, keep=True)
    self.assertEqual(places, count)
    (places,) = self.numbers(_ROOM, count=count, keep=False)
    self.assertGreater(places, 10 * count)

  def test_room_costs_no_memory_before_it_is_used(self):
    (more,) = self.numbers(_START, resident=_RESIDENT)
    self.assertLess(more, 2**26)

  @parameterized.parameters(1, 2)
  def test_a_larger_program_moves_all_to_its_place(self, count):
    more, distance, left = self.numbers(
        _LARGER, count=count, resident=_RESIDENT
    )
    self.assertLess(more, 2**26)
    self.assertLess(distance, 2**20)
    self.assertLess(left, 2**26)


if __name__ == '__main__':
  absltest.main()
