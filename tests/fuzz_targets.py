"""Readers that do what none may, for tests of the fuzzing."""

import os
import signal
import time

import numpy as np

from benchmarks.fuzzing import worker
from input_pipeline.errors import DataError


class Bad:
  """Does something else with each number from 0 to 9."""

  refusals = (DataError,)

  def __init__(self, folder):
    del folder

  def make(self, rng):
    return rng.randrange(10)

  def read(self, made):
    if made == 0:
      os.kill(os.getpid(), signal.SIGSEGV)
    if made == 1:  # A loop that nothing ends.
      while True:
        pass
    if made == 2:
      time.sleep(3600)
    if made == 3:
      np.ones(worker.MEMORY + 2**26, np.uint8)
    if made == 4:
      raise KeyError('field')
    if made == 5:
      raise worker.Finding('taken')
    if made == 6:
      try:
        np.ones(2**40, np.uint8)
      except MemoryError as error:
        raise DataError('no memory') from error
    if made == 7:
      os._exit(3)
    if made == 8:
      raise DataError('refused')
    return 'good'

  def save(self, made, path):
    path.write_text(str(made))


class Impatient(Bad):
  """The same, within limits that a test can wait for, each where it counts."""

  def make(self, rng):
    number = super().make(rng)
    worker.CPU_SECONDS = 1 if number == 1 else 60
    worker.WALL_SECONDS = 1 if number == 2 else 600
    return number
