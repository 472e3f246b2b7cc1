"""Errors of the data that a user can mend."""


class DataError(Exception):
  """Data is missing or cannot be used; the message says what to do."""
