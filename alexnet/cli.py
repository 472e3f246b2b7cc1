"""How every command starts, and ends when a user can mend what is wrong."""

import os
import sys
from collections.abc import Callable

# TensorFlow's C++ log is about itself; its errors also come as exceptions.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from absl import app  # noqa: E402

from alexnet.errors import UserError  # noqa: E402
from input_pipeline.errors import DataError  # noqa: E402


def run(main: Callable[[list[str]], int | None]) -> None:
  """Runs `main(argv)` under absl; what a user can mend is shown as a message.

  Exit status: what main returns (None is 0); 1 after such a message.
  """

  def wrapped(argv):
    try:
      return main(argv)
    except (UserError, DataError) as error:
      sys.stdout.flush()
      print(f'\nerror: {error}', file=sys.stderr)
      return 1

  app.run(wrapped)
