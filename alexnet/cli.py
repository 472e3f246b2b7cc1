"""How every command starts, and ends when a user can mend what is wrong."""

import sys
from collections.abc import Callable

from absl import app, logging

from alexnet.errors import UserError


def run(main: Callable[[list[str]], int | None]) -> None:
  """Runs `main(argv)` under absl; what a user can mend is shown as a message.

  Exit status: what main returns (None is 0); 1 after such a message.
  """

  def wrapped(argv):
    # JAX and Orbax tell of themselves at the level below.
    logging.set_verbosity(logging.WARNING)
    # Imports TensorFlow, which takes seconds that --help need not wait for.
    from input_pipeline.errors import DataError

    try:
      return main(argv)
    except (UserError, DataError) as error:
      sys.stdout.flush()
      print(f'\nerror: {error}', file=sys.stderr)
      return 1

  app.run(wrapped)
