"""Compiled programs stay on disk: what one run has compiled no other compiles.

JAX has such a cache. Here is where it lies, how large it may grow, and the flag
that moves it or turns it off; commands that compile import this module and call
`use_cache` before they use JAX.
"""

import os
import platform

from absl import flags, logging

from alexnet.runtime.gpu import accelerators
from input_pipeline.files import paths, threads

OFF = 'off'
# Bytes on disk; what has not been used for longest goes first. The programs of
# a run take about one megabyte.
LARGEST = 2**30

_FLAG = flags.DEFINE_string(
    'compilation_cache',
    None,
    "Folder for compiled programs, which the next run takes from there; 'off': "
    'none. Unset: $JAX_COMPILATION_CACHE_DIR, otherwise alexnet-jax in the '
    "user's cache folder ($XDG_CACHE_HOME or ~/.cache).",
)


def use_cache() -> None:
  """Lets JAX keep what it compiles from now on, where the flag says.

  A folder that cannot be written is no reason to stop: a warning, and every run
  compiles for itself.
  """
  import jax  # A second that --help can save.

  if _FLAG.value in (OFF, ''):
    jax.config.update('jax_enable_compilation_cache', False)
    return
  if not jax.config.jax_enable_compilation_cache:
    return  # By JAX_ENABLE_COMPILATION_CACHE.
  if _FLAG.value is None and jax.config.jax_compilation_cache_dir is not None:
    return  # The user has a cache of his own, with settings of his own.
  folder = _folder(_FLAG.value)
  try:
    if folder is None:
      raise OSError('no HOME, and no XDG_CACHE_HOME')
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(folder)
    # Permissions do not say everything: not that the disk is full, or that it
    # is mounted to be read only.
    probe = folder / f'.{os.getpid()}'
    probe.write_bytes(b'probe')
    probe.unlink()
  except OSError as error:
    logging.warning(
        'cannot keep compiled programs (%s), so every run compiles for itself: '
        'set --compilation_cache to a folder that can be written, or to %s',
        error,
        OFF,
    )
    jax.config.update('jax_compilation_cache_dir', None)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # A bound also makes JAX lock the folder, so that nobody reads what another
  # process has half written.
  jax.config.update('jax_compilation_cache_max_size', LARGEST)
  # All programs: the smallest are compiled in tens of milliseconds, and read in
  # one or two.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def leave_out_of_several() -> None:
  """Keeps no programs where several processes share the work of a compilation.

  XLA measures kernels on GPUs, a part of them in each process, and each waits,
  up to a day, for what the others have measured. Only the first process writes
  JAX's cache. A process that finds the program in its own does not compile, and
  the others would wait for it. Call it in each of several processes, before it
  compiles.
  """
  import jax

  if not (accelerators.expected() and jax.config.jax_enable_compilation_cache):
    return
  own = 'JAX_COMPILATION_CACHE_DIR' in os.environ
  if own or _FLAG.value is not None:
    logging.warning(
        'compiled programs are not kept: of several processes on accelerators '
        'one would wait for another that has a program already. Leave out %s',
        '--compilation_cache' if _FLAG.value else 'JAX_COMPILATION_CACHE_DIR',
    )
  jax.config.update('jax_enable_compilation_cache', False)


def in_use() -> str | None:
  """The folder of compiled programs, and of the kernels chosen; or None."""
  import jax

  if not jax.config.jax_enable_compilation_cache:
    return None
  return jax.config.jax_compilation_cache_dir


def _folder(given):
  if given is not None:
    root = paths.local(given, '--compilation_cache')
  elif cache := paths.cache_folder():
    root = cache / 'alexnet-jax'
  else:
    return None
  return root / _machine()


def _machine() -> str:
  """Names the kind of machine, for a home that several of them share.

  JAX's keys tell processors by their instructions, but not by their number,
  for which XLA cuts a program up; and accelerators by all that matters.
  """
  kind = 'accelerator' if accelerators.expected() else threads.cores()
  return f'{platform.machine() or "machine"}-{kind}'


def _remove_unfinished(folder):
  """Removes programs of a process that was killed, or had no room.

  JAX writes when a program was last used right after it, and could neither
  read one without that nor, from then on, write any other.
  """
  for program in folder.glob('*-cache'):
    used = program.with_name(program.name.removesuffix('-cache') + '-atime')
    if not used.exists():
      program.unlink(missing_ok=True)
