"""Settings of JAX's compilation cache, which later runs reuse.

This module chooses the folder and the size of the cache, and defines the flag
that moves it or turns it off. Commands that compile import it and call
`use_cache` before they use JAX.
"""

import os
import platform

from absl import flags, logging

from alexnet.runtime.gpu import accelerators
from input_pipeline.files import paths, threads

OFF = 'off'
# Largest size on disk in bytes; the least recently used programs are deleted
# first. The programs of a run take about one megabyte.
LARGEST = 2**30

_FLAG = flags.DEFINE_string(
    'compilation_cache',
    None,
    "Folder for compiled programs, which later runs reuse; 'off' for none. "
    'Default: $JAX_COMPILATION_CACHE_DIR if set, otherwise alexnet-jax in the '
    "user's cache folder ($XDG_CACHE_HOME or ~/.cache).",
)


def use_cache() -> None:
  """Sets up JAX's compilation cache as the flag says.

  If the folder cannot be written, warns and turns the cache off.
  """
  import jax  # Slow to import, and not needed by --help.

  if _FLAG.value in (OFF, ''):
    jax.config.update('jax_enable_compilation_cache', False)
    return
  if not jax.config.jax_enable_compilation_cache:
    return  # JAX_ENABLE_COMPILATION_CACHE turns it off.
  if _FLAG.value is None and jax.config.jax_compilation_cache_dir is not None:
    return  # The user's own cache keeps its own settings.
  folder = _folder(_FLAG.value)
  try:
    if folder is None:
      raise OSError('no HOME, and no XDG_CACHE_HOME')
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(folder)
    # Writes a file, because a disk may be full or read-only.
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
  # A limit also makes JAX lock the folder, so that no process reads a file that
  # another has written in part.
  jax.config.update('jax_compilation_cache_max_size', LARGEST)
  # Keeps all programs: even the smallest take tens of milliseconds to compile,
  # and one or two to read.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def leave_out_of_several() -> None:
  """Turns the cache off if this is one of several processes on accelerators.

  XLA shares the measurement of GPU kernels among the processes, and each waits,
  up to a day, for the results of the others. Only process 0 writes JAX's cache.
  A process that finds a program in its cache does not compile, and the others
  would wait for it. Call this in each of several processes, before it compiles.
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
  """Returns the folder of programs and chosen kernels; None without a cache."""
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
  """Returns a name for the kind of machine, as machines may share a folder.

  JAX's cache keys depend on the instruction set of processors, but not on their
  number, by which XLA partitions programs. For accelerators, they depend on all
  that matters.
  """
  kind = 'accelerator' if accelerators.expected() else threads.cores()
  return f'{platform.machine() or "machine"}-{kind}'


def _remove_unfinished(folder):
  """Removes programs of a process that was killed, or whose disk was full.

  JAX writes a program's time of last use after the program. It cannot read a
  program without that time, and then writes no other program either.
  """
  for program in folder.glob('*-cache'):
    used = program.with_name(program.name.removesuffix('-cache') + '-atime')
    if not used.exists():
      program.unlink(missing_ok=True)
