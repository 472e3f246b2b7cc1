"""Checkpoints: what is needed to continue a run bit by bit.

workdir/checkpoints/STEP/ holds `state` (arrays, by Orbax), `progress` (JSON:
what the host knows) and `manifest.json`: the SHA-256 of every other file.
Orbax does not notice a flipped bit, the manifest does. It is written last, so
a checkpoint without one was interrupted and does not count.
"""

import contextlib
import errno
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from alexnet.errors import CheckpointError
from input_pipeline import untrusted

_MANIFEST = 'manifest.json'


def newest_step(workdir: pathlib.Path) -> int | None:
  """Step of a workdir's newest complete checkpoint; writes nothing there."""
  return max(complete_steps(workdir), default=None)


def complete_steps(workdir: pathlib.Path) -> list[int]:
  """Steps of a workdir's complete checkpoints, in their order."""
  return sorted(
      int(path.parent.name)
      for path in (workdir / 'checkpoints').glob(f'*/{_MANIFEST}')
      if path.parent.name.isdigit()
  )


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(self, workdir: pathlib.Path, keep: int):
    """Opens them.

    Args:
      workdir: of the run.
      keep: number of checkpoints to keep, the newest ones.
    """
    self._directory = (workdir / 'checkpoints').resolve()
    self._keep = max(1, keep)
    self._manager = ocp.CheckpointManager(
        self._directory,
        item_names=('state', 'progress'),
        # Old ones are deleted by `save`, after the manifest of the new one.
        options=ocp.CheckpointManagerOptions(
            create=True, enable_async_checkpointing=False
        ),
    )

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None if there is none."""
    complete = filter(self._is_complete, self._manager.all_steps())
    return max(complete, default=None)

  def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
    """Writes a checkpoint, then deletes those too old to keep.

    Raises:
      CheckpointError: no room on disk; earlier checkpoints are untouched.
    """
    wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(self._directory).free
    no_room = (
        f'no room on disk for the checkpoint of step {step} in '
        f'{self._directory}: it takes {wanted / 2**20:,.0f} MiB, '
        f'{free / 2**20:,.0f} MiB are free. Free some, then run the same '
        'command again to continue from the checkpoint before'
    )
    if free < wanted:
      raise CheckpointError(no_room)
    try:
      self._manager.save(
          step,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(state),
              progress=ocp.args.JsonSave(progress),
          ),
          force=True,
      )
      self._manager.wait_until_finished()
      self.write_manifest(step)
    except Exception as error:  # Orbax wraps the file system's errors.
      if _is_disk_full(error):
        raise CheckpointError(no_room) from error
      raise
    for old in sorted(self._manager.all_steps())[: -self._keep]:
      self._manager.delete(old)

  def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: which.
      target: shapes, dtypes and shardings of the state; not necessarily those
        of the mesh that saved it.

    Returns:
      (state, progress).

    Raises:
      CheckpointError: files are damaged, or the state is of another network.
    """
    self._check_manifest(step)
    try:
      restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
              state=ocp.args.StandardRestore(target),
              progress=ocp.args.JsonRestore(),
          ),
      )
    except Exception as error:  # Orbax raises many kinds.
      raise CheckpointError(
          f'checkpoint {self._directory / str(step)} is not of this network: '
          f'{_shorten(error)}. Use the config that made it, or another workdir'
      ) from error
    return restored.state, restored.progress

  def parameter_shapes(self, step: int) -> Any:
    """Reads the shapes of a checkpoint's parameters.

    Args:
      step: which.

    Returns:
      {layer: {'kernel', 'bias'}} of `jax.ShapeDtypeStruct`.

    Raises:
      CheckpointError: files are damaged, or there are no parameters.
    """
    self._check_manifest(step)
    path = self._directory / str(step) / 'state'
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
      try:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            reader.metadata(path).tree['params'],
        )
      except Exception as error:  # Orbax raises many kinds.
        raise CheckpointError(
            f'{path} has no parameters of a network: {_shorten(error)}'
        ) from error

  def restore_parameters(self, step: int, target: Any) -> Any:
    """Reads some of a checkpoint's parameters, and nothing else.

    Args:
      step: which.
      target: {layer: {'kernel', 'bias'}}, shapes, dtypes and shardings.

    Returns:
      Arrays of the same structure.

    Raises:
      CheckpointError: they cannot be read.
    """
    path = self._directory / str(step) / 'state'
    target = {'params': target}
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
      try:
        restored = reader.restore(
            path,
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(
                    target
                ),
                partial_restore=True,
            ),
        )
        return restored['params']
      except Exception as error:  # Orbax raises many kinds.
        raise CheckpointError(
            f'{path} cannot be read: {_shorten(error)}'
        ) from error

  def close(self) -> None:
    """Frees Orbax's threads."""
    self._manager.close()

  def set_aside_unfinished(self) -> None:
    """Renames what an interrupted save has left, so that it can be saved again.

    To be called by the one process that writes here.
    """
    for step in self._manager.all_steps():
      if not self._is_complete(step):
        path = self._directory / str(step)
        aside = path.with_name(f'{step}.incomplete')
        logging.warning('%s is incomplete, renaming it to %s', path, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    self._manager.reload()

  def _is_complete(self, step):
    return (self._directory / str(step) / _MANIFEST).exists()

  def write_manifest(self, step: int) -> None:
    """Writes the digests of a checkpoint's files, which completes it."""
    directory = self._directory / str(step)
    files = {
        str(path.relative_to(directory)): _sha256(path)
        for path in sorted(directory.rglob('*'))
        if path.is_file()
    }
    temporary = directory / (_MANIFEST + '.tmp')
    temporary.write_text(json.dumps(files, indent=1))
    temporary.rename(directory / _MANIFEST)

  def _check_manifest(self, step):
    directory = self._directory / str(step)
    advice = (
        f'Remove {directory} to continue from the checkpoint before it, or use '
        'another workdir'
    )
    try:
      files = untrusted.read_json(directory / _MANIFEST)
    except (OSError, ValueError) as error:
      raise CheckpointError(
          f'{directory} is damaged: {_MANIFEST} cannot be read. {advice}'
      ) from error
    for name, digest in files.items():
      path = directory / name
      if not path.is_file():
        raise CheckpointError(
            f'{directory} is damaged: {name} is missing. {advice}'
        )
      if _sha256(path) != digest:
        raise CheckpointError(
            f'{directory} is damaged: {name} is not as it was written. {advice}'
        )


def _sha256(path):
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _is_disk_full(error):
  while error is not None:
    if getattr(error, 'errno', None) == errno.ENOSPC:
      return True
    if 'No space left' in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def _shorten(error, limit=600):
  text = ' '.join(str(error).split())
  return text if len(text) <= limit else text[:limit] + ' ...'
