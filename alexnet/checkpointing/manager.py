"""Checkpoints of a run, from which it resumes with bit-identical results.

workdir/checkpoints/STEP/ holds `state` (arrays, written by Orbax), `progress`
(JSON, the state of the host) and `manifest.json`, see manifest.py. The manifest
is written last, so a checkpoint without one is incomplete and is ignored. Old
checkpoints are deleted after that, each one's manifest first, so that an
interrupted deletion leaves an incomplete checkpoint.

In a run of several processes, each writes its own arrays and process 0 writes
everything else. Decisions depend on the files that process 0 sees.
"""

import contextlib
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Collection
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from alexnet.checkpointing import manifest
from alexnet.config.errors import CheckpointError, UnsavedError
from alexnet.metrics import writer
from alexnet.runtime import multihost
from input_pipeline.errors import NO_ROOM
from input_pipeline.files import untrusted

NEWEST = 'newest'
BEST = 'best'

_DAMAGED = '.damaged'
_INCOMPLETE = '.incomplete'


def newest_step(workdir: pathlib.Path) -> int | None:
  """Returns the step of the newest complete checkpoint; None if there is none.

  Only looks at file names, and writes nothing.
  """
  return max(complete_steps(workdir), default=None)


def complete_steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of a workdir's complete checkpoints, in order."""
  folders = _folders(workdir / 'checkpoints')
  return sorted(
      step for step, path in folders.items() if (path / manifest.FILE).exists()
  )


def parse_step(value: str | None) -> int | str:
  """Parses the flag --step: 'newest', 'best' or a step; None means 'newest'.

  Raises:
    CheckpointError: the value is none of these.
  """
  if value in (None, NEWEST, BEST):
    return value or NEWEST
  if value.isdecimal():
    return int(value)
  raise CheckpointError(
      f"--step is '{value}': expected the step of a checkpoint, 'newest' or "
      "'best'"
  )


def check_data(
    workdir: pathlib.Path, trained_on: Any, identity: str, names: str
) -> None:
  """Checks that the data is the data that a checkpoint was trained on.

  Args:
    workdir: workdir of the run.
    trained_on: identity of the training data, from the checkpoint's progress.
    identity: identity of the present data.
    names: names of the present data sets, for the message.

  Raises:
    CheckpointError: the identities differ.
  """
  if trained_on != identity:
    raise CheckpointError(
        f'{workdir} was trained on other files than those of {names} now: '
        'restore the original files, or use another --workdir'
    )


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(
      self, workdir: pathlib.Path, keep: int = 1, *, read_only: bool = False
  ):
    """Opens the folder of checkpoints.

    Args:
      workdir: workdir of the run.
      keep: number of newest checkpoints that `save` keeps; at least 1.
      read_only: whether the checkpoints are only read; the folder is then not
        created.
    """
    self._workdir = workdir
    self._directory = (workdir / 'checkpoints').resolve()
    self._keep = max(1, keep)
    self._checked = set()
    self._manager = ocp.CheckpointManager(
        self._directory,
        item_names=('state', 'progress'),
        # `save` deletes old checkpoints after it has written the manifest.
        options=ocp.CheckpointManagerOptions(
            create=not read_only,
            enable_async_checkpointing=False,
        ),
    )

  def complete_steps(self) -> list[int]:
    """Returns the steps of the complete checkpoints, in order."""
    return multihost.of_first(complete_steps(self._workdir))

  def find(
      self,
      which: int | str = NEWEST,
      report: Callable[[str], None] = logging.warning,
  ) -> int | None:
    """Chooses a checkpoint and verifies its checksums.

    Args:
      which: a step; 'newest' for the newest undamaged checkpoint; or 'best' for
        the one with the highest top-1 accuracy in an evaluation, the first of
        equals.
      report: called with a message for each damaged checkpoint that 'newest'
        skips.

    Returns:
      Step of the checkpoint; None if 'newest' finds no checkpoint at all.

    Raises:
      CheckpointError: there is no such checkpoint, it is damaged, or for
        'newest' all are damaged.
    """
    if which == NEWEST:
      step, damaged = self.newest_good()
      for reason in damaged.values():
        report(f'{reason}. Using step {step:,} instead')
      return step
    steps = self.complete_steps()
    if which == BEST:
      top1 = {
          record['step']: record['top1']
          for record in writer.read_records(self._workdir / writer.FILE)
          if record['kind'] == 'eval_centre'
          and record['step'] in steps
          and _is_finite(record.get('top1'))
      }
      if not top1:
        raise CheckpointError(
            f'{self._workdir} has no checkpoint of a step that was evaluated: '
            "expected 'newest', or one of " + ', '.join(map(str, steps))
        )
      which = max(sorted(top1), key=top1.get)
    elif which not in steps:
      raise CheckpointError(
          f'{self._workdir} has no checkpoint of step {which}: it has '
          + (', '.join(map(str, steps)) or 'none')
      )
    self._check(which)
    return which

  def newest_good(self) -> tuple[int | None, dict[int, str]]:
    """Finds the newest undamaged checkpoint, by reading all its files.

    Returns:
      (step, {step: reason}): step of the checkpoint, None if there is no
      checkpoint at all; and why each newer checkpoint is damaged.

    Raises:
      CheckpointError: there are checkpoints, but all are damaged.
    """
    found = self._newest_good() if multihost.is_first() else None
    step, damaged = multihost.of_first(found)
    return step, {int(number): reason for number, reason in damaged.items()}

  def _newest_good(self):
    damaged = {}
    self._checked.clear()  # Files may have changed since the last check.
    for step in reversed(complete_steps(self._workdir)):
      try:
        self._check(step)
        return step, damaged
      except CheckpointError as error:
        damaged[step] = str(error)
    if not damaged:
      for path in self._directory.glob(f'*{_DAMAGED}*'):
        damaged[path.name] = f'{path} was set aside as damaged'
    if damaged:
      raise CheckpointError(
          'no checkpoint is left to continue from: '
          + '; '.join(damaged.values())
          + f'. Restore one of them from a copy, or remove {self._directory} '
          'to start again'
      )
    return None, {}

  def set_aside(self, step: int) -> pathlib.Path:
    """Renames a damaged checkpoint so that it is ignored; returns its path."""
    path = self._directory / str(step)
    aside, number = path.with_name(f'{step}{_DAMAGED}'), 1
    while aside.exists():
      number += 1
      aside = path.with_name(f'{step}{_DAMAGED}.{number}')
    aside = path.with_name(multihost.of_first(aside.name))
    if multihost.is_first():
      path.rename(aside)
    multihost.wait_for_all('set aside')
    self._manager.reload()
    return aside

  def save(
      self,
      step: int,
      state: Any,
      progress: dict[str, Any],
      best: Collection[int] = (),
      report: Callable[[str], None] = logging.warning,
  ) -> None:
    """Writes a checkpoint, then deletes old ones.

    Args:
      step: number of updates made.
      state: tree of arrays.
      progress: state of the host, as values of JSON.
      best: steps of old checkpoints to keep.
      report: called with a message for each old checkpoint that cannot be
        deleted.

    Raises:
      UnsavedError: the disk is full or fails. Earlier checkpoints are intact,
        and the files of this one are removed.
      CheckpointError: the disk of one of several processes is full or fails.
    """
    wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = multihost.of_first(shutil.disk_usage(self._directory).free)
    no_room = (
        f'no room on disk for the checkpoint of step {step} in '
        f'{self._directory}: it takes {wanted / 2**20:,.0f} MiB, '
        f'{free / 2**20:,.0f} MiB are free'
    )
    if free < wanted:
      raise UnsavedError(no_room)
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
      multihost.wait_for_all('checkpoint')
      if multihost.is_first():
        self._sync_metrics()
        manifest.write(self._directory / str(step))
    except Exception as error:  # Orbax wraps the file system's errors.
      self._raise_known(step, error, no_room)
      raise
    # No process continues, and nothing is deleted, without the manifest.
    multihost.wait_for_all('manifest')
    old = self.complete_steps()[: -self._keep]
    if multihost.is_first():
      for step in old:
        if step not in best:
          self._delete(step, report)
    # Orbax does not delete them, because its other processes would wait forever
    # if the first one failed.
    multihost.wait_for_all('deleted')
    if multihost.is_first():
      # Incomplete checkpoints are of no use now. Threads of a failed save may
      # also have written files after `_remove_unfinished`.
      unfinished = self._directory.glob(f'*{_INCOMPLETE}')
      for path in [*unfinished, *self._temporary('*')]:
        shutil.rmtree(path, ignore_errors=True)

  def _raise_known(self, step, error, no_room):
    """Removes the files of a failed save and raises an error that explains it.

    Returns if the error is not known. Files remain if there are several
    processes.
    """
    place = f'the checkpoint of step {step} in {self._directory}'
    if jax.process_count() > 1:
      if _is_of_disk(error):
        # The other processes wait for this one, so the run has to end.
        raise CheckpointError(
            f'cannot write {place} ({_shorten(error)}). Free some room, then '
            'start all processes again to continue from the one before'
        ) from error
      return
    self._remove_unfinished(step)
    if _is_no_room(error):
      raise UnsavedError(no_room) from error
    if cause := _os_error(error):
      raise UnsavedError(f'cannot write {place} ({cause.strerror})') from error

  def _sync_metrics(self):
    """Syncs metrics.jsonl to disk, so that a power cut loses no older record.

    A run that resumes from the checkpoint does not write these records again.
    Errors are ignored, because the checkpoint matters more than the records.
    """
    with contextlib.suppress(OSError):
      with open(self._workdir / writer.FILE, 'rb') as f:
        os.fsync(f.fileno())
      manifest.sync_folder(self._workdir)

  def _delete(self, step, report):
    """Deletes an old checkpoint; only reports failures.

    Files that remain without a manifest are deleted when the run is started
    again.
    """
    path = self._directory / str(step)
    try:
      (path / manifest.FILE).unlink()
    except OSError as error:
      report(f'{path} is old and cannot be deleted ({error.strerror})')
      return
    try:
      shutil.rmtree(path)
    except OSError as error:
      report(
          f'{path} is old and cannot be deleted completely ({error.strerror}); '
          'it is ignored, and deleted at the next start'
      )
      shutil.rmtree(path, ignore_errors=True)  # Deletes as much as possible.

  def _remove_unfinished(self, step):
    """Removes the files of a failed save."""
    paths = [*self._temporary(step), self._directory / str(step)]
    for path in paths:
      if not (path / manifest.FILE).exists():
        shutil.rmtree(path, ignore_errors=True)
    self._manager.reload()

  def _temporary(self, step):
    return self._directory.glob(f'{step}.orbax-checkpoint-tmp*')

  def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: step of the checkpoint.
      target: shapes, dtypes and shardings of the state; the mesh may differ
        from the one that saved it.

    Returns:
      (state, progress), as given to `save`.

    Raises:
      CheckpointError: files are damaged, or the state does not fit the target.
    """
    if multihost.is_first():
      self._check(step)
    multihost.wait_for_all('checked')
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

  def trained_on(self, step: int) -> str:
    """Reads the identity of the data that a checkpoint was trained on.

    Args:
      step: step of the checkpoint.

    Raises:
      CheckpointError: the identity cannot be read.
    """
    try:
      progress = self._manager.restore(
          step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
      ).progress
      return untrusted.take(progress, 'data', str)
    except Exception as error:  # Orbax raises many kinds.
      raise CheckpointError(
          f'cannot read the progress in {self._directory / str(step)}: '
          f'{_shorten(error)}'
      ) from error

  def variable_shapes(self, step: int) -> Any:
    """Reads the shapes and dtypes of the variables in a checkpoint.

    Args:
      step: step of the checkpoint.

    Returns:
      {collection: tree of `jax.ShapeDtypeStruct`} of the collection 'params'
      and of each collection of model state.

    Raises:
      CheckpointError: files are damaged, or there are no parameters.
    """
    self._check(step)
    path = self._directory / str(step) / 'state'
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
      try:
        tree = reader.metadata(path).tree
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            {'params': tree['params'], **tree.get('model_state', {})},
        )
      except Exception as error:  # Orbax raises many kinds.
        raise CheckpointError(
            f'{path} has no parameters of a network: {_shorten(error)}'
        ) from error

  def restore_variables(self, step: int, target: Any) -> Any:
    """Reads some or all of the variables in a checkpoint.

    Does not verify checksums.

    Args:
      step: step of the checkpoint.
      target: the result of `variable_shapes` or a part of it, with shardings;
        includes 'params'.

    Returns:
      Arrays in the same structure.

    Raises:
      CheckpointError: the variables cannot be read.
    """
    path = self._directory / str(step) / 'state'
    state = {name: tree for name, tree in target.items() if name != 'params'}
    target = {'params': target['params'], 'model_state': state}
    if not state:
      del target['model_state']
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
        return {
            'params': restored['params'], **restored.get('model_state', {})
        }
      except Exception as error:  # Orbax raises many kinds.
        raise CheckpointError(
            f'{path} cannot be read: {_shorten(error)}'
        ) from error

  def close(self) -> None:
    """Ends Orbax's threads."""
    self._manager.close()

  def set_aside_unfinished(self) -> list[pathlib.Path]:
    """Cleans up after a process that was killed.

    Incomplete checkpoints newer than the newest complete one are renamed, and
    deleted after the next save. Orbax's temporary folders and older incomplete
    checkpoints are deleted now. Only the run that writes here may call this.

    Returns:
      Paths of the renamed folders.
    """
    renamed = self._rename_unfinished() if multihost.is_first() else []
    renamed = multihost.of_first([*map(str, renamed)])
    self._manager.reload()
    return [*map(pathlib.Path, renamed)]

  def _rename_unfinished(self):
    for path in self._temporary('*'):
      shutil.rmtree(path, ignore_errors=True)
    newest = newest_step(self._workdir)
    renamed = []
    for step, path in sorted(_folders(self._directory).items()):
      if (path / manifest.FILE).exists():
        continue
      aside = path.with_name(f'{step}{_INCOMPLETE}')
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)
      if newest is not None and step < newest:
        shutil.rmtree(aside, ignore_errors=True)
      else:
        renamed.append(aside)
    return renamed

  def _check(self, step):
    """Verifies checksums, once for `find` and `restore` together."""
    if step not in self._checked:
      manifest.check(self._directory / str(step))
      self._checked.add(step)


def _is_finite(value):
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def _folders(directory):
  """Returns {step: folder} of all checkpoints, complete or not."""
  return {
      int(path.name): path
      for path in directory.glob('*')
      if path.name.isdecimal() and path.name == str(int(path.name))
  }


def _causes(error):
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _is_no_room(error):
  return any(
      getattr(cause, 'errno', None) in NO_ROOM
      # TensorStore only has the error's text.
      or any(os.strerror(number) in str(cause) for number in NO_ROOM)
      for cause in _causes(error)
  )


def _is_of_disk(error):
  cause = _os_error(error)
  lost = cause is None or isinstance(cause, ConnectionError)
  return _is_no_room(error) or not lost


def _os_error(error):
  return next((e for e in _causes(error) if isinstance(e, OSError)), None)


def _shorten(error, limit=600):
  text = ' '.join(str(error).split())
  return text if len(text) <= limit else text[:limit] + ' ...'
