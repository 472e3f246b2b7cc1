"""Training loop: steps, evaluations, checkpoints and resuming.

A workdir holds config.json, environment.json, inputs.npz, metrics.jsonl,
tensorboard/, checkpoints/ and, after the end, results.json. The same command
on the same workdir resumes the run.
"""

import os
import pathlib
import shlex
from typing import Any, NamedTuple

import ml_collections

from alexnet.checkpointing import input_spec, pretrained
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import ConfigError
from alexnet.config.intervals import Timetable, is_due, is_valid
from alexnet.evaluation import diagnostics, layer_statistics
from alexnet.metrics import profiling
from alexnet.metrics.clock import Clock
from alexnet.metrics.console import (
  Console,
  format_result,
  progress_line,
  show_results,
)
from alexnet.metrics.writer import NoWriter, Writer, read_records
from alexnet.models.parameters import by_path
from alexnet.runtime import heap, multihost, preemption
from alexnet.training import bad_steps
from alexnet.training import setup as setup_lib
from alexnet.training.progress import Progress
from alexnet.training.steps import Started, Steps
from alexnet.training.train_step import TrainState
from input_pipeline.files import paths


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    profile_steps: str | None = None,
) -> dict[str, Any] | None:
  """Trains a new run or resumes one, up to its end; see `Trainer.train`.

  Args:
    config: the whole config, as from configs/alexnet.py.
    workdir: folder of the run, created if necessary.
    profile_steps: 'A:B' to write a trace of these steps, see profiling.py.

  Returns:
    The results; None if a signal stopped the run.
  """
  steps = profiling.parse(profile_steps)
  workdir = paths.local(workdir, 'the workdir')
  return create(config, workdir, Console(), profile_steps=steps).train()


def create(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    console: Console,
    *,
    profile_steps: range = range(0),
) -> 'Trainer':
  """Creates a trainer for a new run or one to resume; see `setup.create`."""
  setup = setup_lib.create(config, workdir, console)
  return Trainer(setup, profile_steps=profile_steps)


class _Due(NamedTuple):
  """Actions that are due before the next step."""

  log: bool
  evaluate: bool
  save: bool


class Trainer:
  """Trainer of a run.

  Attributes:
    workdir: folder of the run.
    task: config, network, data and devices of the run.
    steps: steps of the run, with its state and progress.
  """

  def __init__(
      self, setup: setup_lib.Setup, *, profile_steps: range = range(0)
  ):
    """Restores the newest checkpoint, or creates the initial state.

    Args:
      setup: result of `setup.create`.
      profile_steps: steps to write a trace of, see profiling.py.

    Raises:
      CheckpointError: checkpoints are damaged or do not fit the run.
    """
    self._setup, self.task = setup, setup.task
    self.workdir = setup.workdir
    self._console = setup.task.console
    self.steps = Steps(setup)
    if multihost.is_first():
      # Only now is the data known to be that of the checkpoint.
      input_spec.save(setup.workdir, input_spec.of_pipeline(self.task.pipeline))
    self._stop = preemption.Stop(self.task.mesh)
    self._clock = Clock(self.progress.seconds)
    self._observer = diagnostics.Observer(self.task, setup.workdir)
    self._profiler = profiling.Profiler(
        profile_steps if multihost.is_first() else range(0),
        setup.workdir,
        self._console,
    )
    # The last step that was started, until its metrics are read.
    self._started: Started | None = None
    self._writer = NoWriter()

  @property
  def state(self) -> TrainState:
    """Present `TrainState`, on the mesh."""
    return self.steps.state

  @property
  def progress(self) -> Progress:
    """Progress of the run."""
    return self.steps.progress

  def train(self) -> dict[str, Any] | None:
    """Trains to the end, with evaluations and checkpoints in between.

    Returns:
      The results, also written to results.json; None if a signal stopped the
      run, whose state is then saved.

    Raises:
      ConfigError: the run is already longer than config.duration, or it does
        not have the steps to trace.
      WorkdirInUseError: another job has locked the workdir in the meantime.
      BadStepError: training has diverged; see bad_steps.py.
      UnsavedError: the state at the end, or after a signal, cannot be saved.
      DataError: an image cannot be read.
      DeviceMemoryError: a device does not have enough memory.
    """
    lock = setup_lib.take_lock(self.workdir, self.task)
    try:
      self._check_and_tell()
      results = self._finished_before()
      if results is None:
        results = self._train()
        if results is None:
          return None
        if multihost.is_first():
          path = self.workdir / workdir_lib.RESULTS
          workdir_lib.write_json(path, results)
      show_results(self._console, self.workdir, results)
      return results
    finally:
      self._profiler.stop()
      self.close()
      if lock:
        lock.release()

  def close(self) -> None:
    """Releases the resources of the run; `train` calls it at its end."""
    self._setup.recovery.close()

  # --- The loop ---

  def _train(self):
    """Trains to the end or until a signal; returns the results or None."""
    if multihost.is_first():
      self._writer = Writer(
          self.workdir,
          self.progress.step,
          self._stays_recorded,
          report=self.task.warn,
      )
    try:
      with self._stop.listening(), self.steps.memory.explained():
        return self._until_stopped()
    finally:
      self._writer.close()

  def _until_stopped(self):
    try:
      if self._setup.starts_elsewhere:
        self._save(required=True)  # The other run may change or be deleted.
      while True:
        try:
          return self._loop()
        except bad_steps.RollBack as back:
          self._roll_back(back)
    except preemption.Stopped:
      self._save_stopped()
      return None

  def _loop(self):
    """Executes steps until the end, and returns the results.

    Raises:
      Stopped: a signal stopped the run.
      RollBack: the run has to return to a checkpoint.
    """
    batches = self.steps.batches(self._stop.alone)
    while True:
      due = self._due()
      if any(due) or self._stop:
        self._finish_step()  # What follows needs its metrics.
      if due.log and self.progress.steps:
        self._log()
      self._raise_if_stopped()
      at_end = self._at_end()
      good = False
      if due.evaluate or at_end:
        good = self._evaluate_and_record()
      if due.save or good or at_end:
        self._save(required=at_end)
      if at_end:
        return self._results()
      self._raise_if_stopped()  # Evaluation or saving may have taken long.
      started = self._start_step(batches)
      self._stop.ask()
      self._finish_step()  # The previous step, while this one runs.
      self._started = started
      if not self._clock.is_running:
        # The clock starts when the first step ends. That has to be before the
        # second starts, which on CPUs would not be timed otherwise.
        self._finish_step()

  def _due(self):
    step, times = self.progress.step, self._setup.timetable
    last = step == times.total_steps
    retry = self._setup.recovery.retry_due(step)
    return _Due(
        log=last or is_due(step, times.log_every),
        evaluate=last or is_due(step, times.evaluate_every),
        save=last or is_due(step, times.checkpoint_every) or retry,
    )

  def _raise_if_stopped(self):
    if self._stop:
      raise preemption.Stopped

  def _start_step(self, batches):
    try:
      batch = next(batches)
    except preemption.Stopped:
      # The previous step is saved now: its loss belongs to the sums, and a bad
      # step must not be saved as a good one.
      self._finish_step()
      raise
    return self._profiler.make(
        self.progress.step, lambda state: self.steps.start(batch), self.state
    )

  def _finish_step(self):
    """Waits for the step that was started; adds its metrics to progress."""
    started, self._started = self._started, None
    if started is None:
      return
    values, reason = self.steps.finish(started)
    self._stop.hear()
    self._clock.tick()
    if reason:
      self.steps.bad_steps.handle(
          self._writer, self.progress, started.step, values, reason
      )
    else:
      self.progress.skipped_in_a_row = 0

  # --- Between two steps ---

  def _log(self):
    progress, steps = self.progress, self.progress.steps
    step_seconds = self._clock.lap()
    values = {
        'epoch': progress.step / self._setup.timetable.steps_per_epoch,
        'loss': progress.loss / steps,
        'top1': progress.top1 / steps,
        'learning_rate': self._displayed_rate(),
        'images_per_second': (
            self.task.config.batch_size / step_seconds if step_seconds else None
        ),
    }
    progress.train_error = 1 - values['top1']
    progress.clear_sums()
    self._writer.write('train', progress.step, values)
    total = self._setup.timetable.total_steps
    left = self._clock.remaining(total - progress.step)
    self._console.progress(progress_line(values, progress.step, total, left))

  def _evaluate_and_record(self):
    """Evaluates the network and records the result.

    Returns:
      Whether the state is one of the best so far, whose checkpoints are kept.
    """
    step = self.progress.step
    if self.progress.evaluated_step == step:
      return False
    with self._clock.paused():
      result = self.evaluate('centre')
      self._writer.write('eval_centre', step, result)
      self._console.print(f'step {step}: {format_result("centre", result)}')
      self._observer.observe(
          self._writer, step, self.state, self.steps.rates()
      )
      heap.give_back()
      self.progress.evaluated_step = step
      if self.steps.observe_error(1 - result['top1']):
        self._console.print(
            f'the validation error has stopped improving: learning rate '
            f'{self._displayed_rate():.3g}'
        )
      return self.progress.note_evaluation(
          result['top1'], self.task.config.keep_best
      )

  def _save(self, *, required):
    with self._clock.paused():
      self.progress.seconds = self._clock.seconds
      self._setup.recovery.save(self.state, self.progress, required=required)

  def _roll_back(self, back):
    """Restores the newest checkpoint; leaves out data up to the bad batch."""
    rollbacks = self.progress.rollbacks + 1
    self.steps.state = None  # Frees its memory for the restored state.
    self._stop.forget_questions()
    with self._clock.paused():
      self.steps.state, progress = self._setup.recovery.newest()
    progress.left_out = back.batch + 1 - progress.step
    progress.rollbacks = rollbacks
    self.steps.progress = progress
    self._writer.rewind(progress.step, self._stays_recorded)
    self._writer.write(bad_steps.KIND, progress.step, back.record)
    self._console.print(
        f'back to step {progress.step:,}; the next batch is number '
        f'{back.batch + 1:,}'
    )

  def _stays_recorded(self, record):
    """Returns whether to keep a record of the checkpoint's own step."""
    step, kinds = self.progress.step, ['train']
    if self.progress.evaluated_step == step:
      kinds += ['eval_centre', layer_statistics.KIND]
    if step < self._setup.timetable.total_steps:
      kinds.append('eval_ten')  # The end of an earlier, shorter duration.
    # A record of a rollback to this step is kept if its batch is left out. A
    # batch still ahead is read again, and recorded again.
    behind = bad_steps.is_behind(record, step + self.progress.left_out)
    return behind or record['kind'] in kinds

  # --- The beginning and the end ---

  def _check_and_tell(self):
    """Checks that the run has steps left, and prints where it starts.

    Raises:
      ConfigError: the run is already longer than config.duration, or does not
        have the steps to trace.
    """
    progress, total = self.progress, self._setup.timetable.total_steps
    if progress.step > total:
      raise ConfigError(
          f'{self.workdir} is at step {progress.step} already, but '
          f'duration is {total} steps: set a longer --config.duration, or use '
          'another --workdir'
      )
    self._profiler.check(progress.step, total)
    if progress.step:
      self._console.print(f'continuing from step {progress.step:,}')
      self._warn_of_rates()
    if progress.pretrained:
      line = pretrained.describe(progress.pretrained)
      self._console.print(f'started  with {line}')

  def _warn_of_rates(self):
    """Warns if a change of duration changes the learning rate."""
    before, config = self._setup.before, self.task.config
    # The user may have edited config.json.
    if before is None or not is_valid(before.duration):
      return
    timetable = Timetable.of(before, len(self.task.train))
    old = by_path(self.steps.rates(config=before, timetable=timetable))
    new = by_path(self.steps.rates())
    moved = [name for name in old if old[name] != new[name]]
    if not moved:
      return
    head = f'{self.task.model.head}/kernel'
    name = head if head in moved else moved[0]
    plain = '--config.schedule.batch_scaling=none '
    scaled = config.schedule.batch_scaling != 'none'
    workdir = shlex.quote(str(self.workdir))
    self._console.print(
        f'warning: duration was {before.duration}, is {config.duration}, '
        f'and the schedule depends on it: at step {self.progress.step:,} the '
        f'learning rate was {old[name]:.3g}, is {new[name]:.3g} ({name}). To '
        'keep the old one, stop here and start another run from this one: '
        f'--config.pretrained.workdir={workdir} '
        f'--config.schedule.name=constant {plain if scaled else ""}'
        f'--config.schedule.learning_rate={old[name]:.6g} and another --workdir'
    )

  def _displayed_rate(self):
    return by_path(self.steps.rates())[f'{self.task.model.head}/kernel']

  def _at_end(self):
    goal, progress = self.task.config.until_train_error, self.progress
    reached = goal is not None and progress.train_error <= goal
    return reached or progress.step == self._setup.timetable.total_steps

  def _finished_before(self):
    """Returns the results if the run is already finished, else None."""
    results = multihost.of_first(workdir_lib.load_results(self.workdir))
    if results and results['step'] == self.progress.step and self._at_end():
      self._console.print('this run is finished already')
      return results
    return None

  def _save_stopped(self):
    step, name = self.progress.step, self._stop.name
    self._console.print(f'{name}: saving step {step}')
    self._save(required=True)
    self._console.print(
        f'stopped by {name}; saved step {step} of '
        f'{self._setup.timetable.total_steps} in {self.workdir}. Run '
        'the same command again to continue'
    )

  def _results(self):
    results = {
        'step': self.progress.step,
        'train_seconds': self.progress.seconds,
        'centre': self._centre_result(),
    }
    if self.progress.pretrained:
      results['pretrained'] = self.progress.pretrained
    if self.task.config.ten_views:
      results['ten'] = self.evaluate('ten')
      self._writer.write('eval_ten', self.progress.step, results['ten'])
    self._writer.flush()  # The record has to be in the file before the results.
    return results

  def _centre_result(self):
    # The file has the result even if the run was killed after the evaluation.
    recorded = multihost.of_first(self._recorded_centre_result())
    return recorded or self.evaluate('centre')

  def _recorded_centre_result(self):
    records = read_records(self.workdir / 'metrics.jsonl')
    for record in reversed(records):
      key = record.pop('kind'), record.pop('step')
      if key == ('eval_centre', self.progress.step):
        return record
    return None

  def evaluate(self, views: str) -> dict[str, float]:
    """Evaluates the present parameters, see `evaluator.evaluate`.

    Args:
      views: 'centre' or 'ten'.
    """
    return self.task.evaluate(self.state.variables, views, stop=self._stop)
