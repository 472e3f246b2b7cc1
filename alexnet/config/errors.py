"""What a user can mend about a config, a workdir or a training run."""

from input_pipeline.errors import UserError


class ConfigError(UserError):
  """A field of the config has a value that cannot work."""


class CheckpointError(UserError):
  """A workdir or a checkpoint in it cannot be used."""


class DeviceMemoryError(UserError):
  """A device has not the memory for what it is to compute."""


class WorkdirInUseError(CheckpointError):
  """Another job has the workdir."""


class UnsavedError(CheckpointError):
  """A checkpoint could not be written; earlier ones are as they were."""


class BadStepError(UserError):
  """Training has gone wrong, so going on would be useless."""


class NonFiniteLossError(BadStepError):
  """The loss is no longer a number."""
