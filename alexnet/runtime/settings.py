"""Settings of JAX that change what a run computes.

Each can be set by a variable of the environment (`JAX_ENABLE_X64=1`), which a
user may have for other programs. A command puts those that decide what a config
and a seed make to what all runs are made with; those that one may want another
value of, it only tells of. Who uses the library has his own settings, which a
run notes in environment.json and compares when it goes on.
"""

from typing import Any

from absl import logging

from alexnet.config.errors import ConfigError

# As JAX has them by itself; with others a seed makes another initialization
# and other dropout, or a type or shape is refused.
_FIXED = {
    'jax_enable_x64': False,
    'jax_default_prng_impl': 'threefry2x32',
    'jax_threefry_partitionable': True,
    'jax_random_seed_offset': 0,
    'jax_numpy_dtype_promotion': 'standard',
    'jax_numpy_rank_promotion': 'allow',
    'jax_disable_jit': False,
    'jax_transfer_guard': None,
}
# Rounding, for which a user may have his reasons: time, or exactness.
_CHOSEN = {
    'jax_default_matmul_precision': None,
    'jax_disable_most_optimizations': False,
}


def fix() -> None:
  """Makes a command independent of the environment; before it imports JAX.

  Each setting that differs is told of in a warning.

  Raises:
    ConfigError: JAX cannot read one of its variables.
  """
  try:
    import jax  # A second that --help can save.
  except ValueError as error:
    raise ConfigError(
        f'JAX cannot read a variable of the environment ({error}): mend it, or '
        'unset it'
    ) from error
  for name, (value, usual) in _settings().items():
    if value == usual:
      continue
    if name in _FIXED:
      jax.config.update(name, usual)
      logging.warning(
          '%s=%s is set, and not used: a run is made with %s, so that its '
          'config and seed say all', name.upper(), value, usual,
      )
    else:
      logging.warning(
          '%s=%s is set, and used: results differ in rounding from those '
          'without it', name.upper(), value,
      )


def describe() -> dict[str, Any]:
  """{setting: value} as they are now, as JSON has it."""
  return {name: value for name, (value, _) in _settings().items()}


def _settings():
  """{name: (value, usual one)} of those that this JAX has."""
  import jax

  found = {}
  for name, usual in (_FIXED | _CHOSEN).items():
    if hasattr(jax.config, name):
      value = getattr(jax.config, name)
      # Names are members of an enumeration in some versions of JAX.
      found[name] = (getattr(value, 'value', value), usual)
  return found
