"""That memory which was freed is used again without new pages."""

import subprocess
import sys

from absl.testing import absltest

# In a process of its own: it cannot be undone. The same block twice, written
# to, and in between one that is smaller and stays.
_PROGRAM = """
import resource
import numpy as np
from alexnet import host_memory

if {keep}:
  print(int(host_memory.keep_freed()))
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


class HostMemoryTest(absltest.TestCase):

  def faults(self, keep):
    output = subprocess.run(
        [sys.executable, '-c', _PROGRAM.format(keep=keep)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if output[0] == '0':
      self.skipTest('not with this C library, or too little memory')
    return int(output[1])

  def test_a_second_block_takes_the_pages_of_the_first(self):
    self.assertLess(self.faults(keep=True), 100)

  def test_by_default_it_does_not(self):
    self.faults(keep=True)  # Skips where there is nothing to see.
    # 2**28 bytes in pages of 4096; fewer where pages are larger.
    self.assertGreater(self.faults(keep=False), 100)


if __name__ == '__main__':
  absltest.main()
