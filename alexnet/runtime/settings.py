"""Settings of JAX that change the results of a run.

Each can be set by an environment variable (`JAX_ENABLE_X64=1`), perhaps for
other programs. Commands reset the settings that determine the results of a
config and a seed to the same values for all runs; they only warn about settings
that a user may have reasons to change. Users of the library keep their own
settings. A run records its settings in environment.json and compares them when
it resumes.
"""

from typing import Any

from absl import logging

from alexnet.config.errors import ConfigError

# Defaults of JAX. With other values, a seed gives another initialization and
# other dropout, or JAX refuses a dtype or shape.
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
# Settings of rounding, which users may change for speed or exactness.
_CHOSEN = {
    'jax_default_matmul_precision': None,
    'jax_disable_most_optimizations': False,
}


def fix() -> None:
  """Resets the settings of _FIXED; call it before a command imports JAX.

  Warns about each setting that differs from the default.

  Raises:
    ConfigError: JAX cannot read one of its environment variables.
  """
  try:
    import jax  # Slow to import, and not needed by --help.
  except ValueError as error:
    raise ConfigError(
        f'JAX cannot read an environment variable ({error}): fix it, or unset '
        'it'
    ) from error
  for name, (value, usual) in _settings().items():
    if value == usual:
      continue
    if name in _FIXED:
      jax.config.update(name, usual)
      logging.warning(
          '%s=%s is set, and not used: all runs use %s, so that a config and '
          'a seed determine the results', name.upper(), value, usual,
      )
    else:
      logging.warning(
          '%s=%s is set, and used: results differ in rounding from those '
          'without it', name.upper(), value,
      )


def describe() -> dict[str, Any]:
  """Returns {setting: current value}, as values of JSON."""
  return {name: value for name, (value, _) in _settings().items()}


def _settings():
  """Returns {name: (value, default)} of the settings that this JAX has."""
  import jax

  found = {}
  for name, usual in (_FIXED | _CHOSEN).items():
    if hasattr(jax.config, name):
      value = getattr(jax.config, name)
      # Names are members of an enumeration in some versions of JAX.
      found[name] = (getattr(value, 'value', value), usual)
  return found
