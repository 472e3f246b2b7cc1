"""Errors that a user can fix: of a config, a workdir or a training run."""

from input_pipeline.errors import UserError


class ConfigError(UserError):
  """A field of the config has an invalid value."""


class CheckpointError(UserError):
  """A workdir or a checkpoint in it cannot be used."""


class DeviceMemoryError(UserError):
  """A device has too little memory for a computation."""


class WorkdirInUseError(CheckpointError):
  """Another job uses the workdir."""


class UnsavedError(CheckpointError):
  """A checkpoint could not be written; earlier ones are intact."""


class BadStepError(UserError):
  """Training has diverged, or too many steps are bad."""


class NonFiniteLossError(BadStepError):
  """The loss is not finite."""
