"""The errors that a user can mend: shown as a message, without a traceback."""


class UserError(Exception):
  """Something outside the program is wrong; the message says what to do."""


class ConfigError(UserError):
  """A field of the config has a value that cannot work."""


class CheckpointError(UserError):
  """A workdir or a checkpoint in it cannot be used."""


class NonFiniteLossError(UserError):
  """The loss is no longer a number, so going on would be useless."""
