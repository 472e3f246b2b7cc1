"""A run: the loop over training steps, evaluation, checkpoints, restarts.

A workdir holds config.json, environment.json, inputs.npz, metrics.jsonl,
tensorboard/, checkpoints/ and, after the end, results.json. The same command
on the same workdir continues where it was.
"""

import os
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet.checkpointing import input_spec, manager, pretrained
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import ConfigError
from alexnet.config.intervals import Timetable, is_due
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
from alexnet.runtime import heap, multihost, preemption, sharding
from alexnet.training import bad_steps, resume, schedules
from alexnet.training import setup as setup_lib
from input_pipeline.files import paths


class Run:
  """One run in its workdir: opened, or continued, and then trained."""

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      workdir: pathlib.Path,
      console: Console,
      *,
      training: bool = True,
      profile_steps: range = range(0),
  ):
    """Opens the data, builds the network and restores the newest checkpoint.

    Args:
      config: as from configs/alexnet.py.
      workdir: folder of the run, made if need be.
      console: for messages.
      training: whether the run is to go on; otherwise nothing is written.
      profile_steps: of which a trace is written, see profiling.py.

    Raises:
      UserError: something the user can mend; says what to do.
    """
    self.workdir = workdir
    self._lock = None
    setup = setup_lib.set_up(config, workdir, console, training=training)
    self._setup, self.timetable = setup, setup.timetable
    self.task = task = setup.task
    self.config, self.mesh, self.model = task.config, task.mesh, task.model
    self._console = task.console
    if training:
      setup.announce()
    task.open_data()
    self.pipeline = task.pipeline
    if training:
      self._lock = setup.make_workdir()
    self._recovery = resume.Recovery(setup, training=training)
    self._stop = preemption.Stop(self.mesh)
    self._bad_steps = bad_steps.BadSteps(
        self.config, self._console, self.pipeline
    )
    self.state, self.progress = self._recovery.open(manager.NEWEST)
    if training and multihost.is_first():
      # Now it is known that the data is that of the checkpoint.
      input_spec.save(workdir, input_spec.of_pipeline(self.pipeline))
    self._clock = Clock(self.progress.seconds)
    self._observer = diagnostics.Observer(task, workdir)
    self._train_step = setup.make_train_step()
    steps = profile_steps if multihost.is_first() else range(0)
    self._profiler = profiling.Profiler(steps, workdir, self._console)

  def rewind(self, step: int) -> None:
    """Goes back to a checkpoint; CheckpointError if it cannot be used."""
    self.state, self.progress = self._recovery.open(step)

  def close(self) -> None:
    """Frees what an opened run holds; `train` does so itself."""
    self._recovery.close()

  # --- Training ---

  def train(self) -> dict[str, Any] | None:
    """Trains to the end, evaluating and saving on the way.

    Returns:
      The results, also written to results.json; None if a signal stopped the
      run, which is then saved.

    Raises:
      WorkdirInUseError: another job has come between.
      BadStepError: training has gone wrong; see bad_steps.py.
      UnsavedError: the end, or where a signal stopped it, cannot be saved.
      DataError: an image cannot be read.
    """
    self._lock = self._setup.take_lock()
    try:
      return self._train()
    finally:
      self._profiler.stop()
      self._recovery.close()
      if self._lock:
        self._lock.release()

  def _train(self):
    if self.progress.step > self.timetable.total_steps:
      raise ConfigError(
          f'{self.workdir} is at step {self.progress.step} already, but '
          f'duration is {self.timetable.total_steps} steps: set a longer '
          '--config.duration, or use another --workdir'
      )
    self._profiler.check(self.progress.step, self.timetable.total_steps)
    if self.progress.step:
      self._console.print(f'continuing from step {self.progress.step:,}')
      self._warn_of_rates()
    if self.progress.pretrained:
      line = pretrained.describe(self.progress.pretrained)
      self._console.print(f'started  with {line}')
    results = multihost.of_first(workdir_lib.load_results(self.workdir))
    if results and results['step'] == self.progress.step and self._at_end():
      self._console.print('this run is finished already')
      show_results(self._console, self.workdir, results)
      return results
    writer = NoWriter()
    if multihost.is_first():
      writer = Writer(
          self.workdir,
          self.progress.step,
          self._stays_recorded,
          report=lambda text: self._console.print(f'warning: {text}'),
      )
    try:
      with self._stop.listening():
        results = self._until_stopped(writer)
    finally:
      writer.close()
    if results is not None:
      if multihost.is_first():
        workdir_lib.write_json(self.workdir / workdir_lib.RESULTS, results)
      show_results(self._console, self.workdir, results)
    return results

  def _until_stopped(self, writer):
    try:
      if self._setup.pretrained:
        self._save(required=True)  # The other run may change, or go.
      while True:
        try:
          results = self._loop(writer)
          writer.flush()  # The results are not without it.
          return results
        except bad_steps.RollBack as back:
          self._roll_back(writer, back)
    except preemption.Stopped:
      self._console.print(
          f'{self._stop.name}: saving step {self.progress.step}'
      )
      self._save(required=True)
      self._console.print(
          f'stopped by {self._stop.name}; saved step {self.progress.step} of '
          f'{self.timetable.total_steps} in {self.workdir}. Run the same '
          'command again to continue'
      )
      return None

  def _roll_back(self, writer, back):
    """To the newest checkpoint, and on with the data behind a batch."""
    rollbacks = self.progress.rollbacks + 1
    self.state = None  # Its memory is for the other one.
    self._stop.forget_questions()
    with self._clock.paused():
      self.state, progress = self._recovery.newest()
    progress.left_out = back.batch + 1 - progress.step
    progress.rollbacks = rollbacks
    self.progress = progress
    writer.rewind(progress.step, self._stays_recorded)
    writer.write(bad_steps.KIND, progress.step, back.record)
    self._console.print(
        f'back to step {progress.step:,}, and on with batch {back.batch + 1:,}'
    )

  def _stays_recorded(self, record):
    """Whether the checkpoint's own step has a record for good."""
    step, kinds = self.progress.step, ['train']
    if self.progress.evaluated_step == step:
      kinds += ['eval_centre', layer_statistics.KIND]
    if step < self.timetable.total_steps:
      kinds.append('eval_ten')  # Of a shorter duration before.
    # The run went back to this step because of a batch: if that is ahead, it
    # is met again, and recorded again.
    behind = bad_steps.is_behind(record, step + self.progress.left_out)
    return behind or record['kind'] in kinds

  def _loop(self, writer):
    progress, timetable = self.progress, self.timetable
    batches = self.training_batches()
    pending = None
    while True:
      step = progress.step
      last = step == timetable.total_steps
      log_due = last or is_due(step, timetable.log_every)
      evaluation_due = last or is_due(step, timetable.evaluate_every)
      save_due = (
          last
          or is_due(step, timetable.checkpoint_every)
          or self._recovery.retry_due(step)
      )
      # Metrics of a step are read while the next one runs, unless something
      # has to know them now.
      if pending and (
          log_due or evaluation_due or save_due or self._stop
      ):
        self._read(writer, *pending)
        pending = None
      if log_due and progress.steps:
        self._log(writer)
      if self._stop:
        raise preemption.Stopped
      at_end = self._at_end()
      evaluation_due |= at_end
      save_due |= at_end
      if evaluation_due and progress.evaluated_step < step:
        with self._clock.paused():
          save_due |= self._evaluate_and_record(writer)
      if save_due:
        with self._clock.paused():
          self._save(required=at_end)
      if at_end:
        return self._finish(writer)
      if self._stop:
        raise preemption.Stopped  # Before a step more, and a save more.
      limit = self._bad_steps.limit(progress.usual_loss, step)
      try:
        batch = next(batches)
      except preemption.Stopped:
        # The step before is saved now: its loss belongs to the sums, and if it
        # is bad, it is not to be saved as a good one.
        if pending:
          self._read(writer, *pending)
        raise
      result = self._advance(batch, limit)
      self._stop.ask()
      if pending:
        self._read(writer, *pending)
      pending = step, result, limit

  def training_batches(self) -> Iterator[dict[str, jax.Array]]:
    """Endless batches from the run's step on, on its devices."""
    progress, lit = self.progress, self.timetable.lighting_steps
    stream = self.pipeline.training_batches(
        progress.step + progress.left_out,
        lighting_steps=None if lit is None else lit + progress.left_out,
    )
    return sharding.put_ahead(
        preemption.until(self._stop.alone, stream), self.mesh
    )

  def _advance(self, batch, limit):
    arguments = self.state, batch, self._rates(np.float32)
    if self.config.bad_steps.action == bad_steps.SKIP:
      arguments += (limit,)
    self.state, result = self._profiler.make(
        self.progress.step, self._train_step, *arguments
    )
    self.progress.step += 1
    return result

  def make_step(self, batch: dict[str, jax.Array]) -> dict[str, float]:
    """Makes one step, and waits for what it says.

    It counts in `progress`, unless it is bad.
    """
    step = self.progress.step
    limit = self._bad_steps.limit(self.progress.usual_loss, step)
    result = self._advance(batch, limit)
    values = {name: float(value) for name, value in result.items()}
    if not self._bad_steps.reason(values, limit):
      self.progress.add(step, values)
    return values

  def observe_error(self, error: float) -> bool:
    """Takes a validation error; whether the rate drops by the plateau rule."""
    schedule = self.config.schedule
    return schedule.name == 'plateau' and self.progress.plateau.observe(
        error, schedule
    )

  def _at_end(self):
    goal, progress = self.config.until_train_error, self.progress
    reached = goal is not None and progress.train_error <= goal
    return reached or progress.step == self.timetable.total_steps

  def _rates(self, scalar=float, config=None, timetable=None):
    """Of the next step; by another config and timetable if they are given."""
    timetable = timetable or self.timetable
    rates = schedules.rates_at(
        config or self.config,
        self._setup.layers,
        step=self.progress.step,
        total_steps=timetable.total_steps,
        steps_per_epoch=timetable.steps_per_epoch,
        plateau=self.progress.plateau,
        rules=self.task.rules,
    )
    return jax.tree.map(scalar, rates)

  def _warn_of_rates(self):
    """Of a change of the config that moves the learning rate."""
    before = self._setup.before
    if before is None:
      return
    timetable = Timetable.of(before, len(self.task.train))
    old = workdir_lib.flatten(
        self._rates(config=before, timetable=timetable)
    )
    new = workdir_lib.flatten(self._rates())
    moved = [name for name in old if old[name] != new[name]]
    if not moved:
      return
    head = f'{self.model.head}.kernel'
    name = head if head in moved else moved[0]
    plain = '--config.schedule.batch_scaling=none '
    scaled = self.config.schedule.batch_scaling != 'none'
    self._console.print(
        f'warning: duration was {before.duration}, is {self.config.duration}, '
        f'and the schedule goes by it: at step {self.progress.step:,} the '
        f'learning rate was {old[name]:.3g}, is {new[name]:.3g} ({name}). To '
        'go on with the old one, stop here and start another run from this '
        f'one: --config.pretrained.workdir={shlex.quote(str(self.workdir))} '
        f'--config.schedule.name=constant {plain if scaled else ""}'
        f'--config.schedule.learning_rate={old[name]:.6g} and another --workdir'
    )

  def _displayed_rate(self):
    return self._rates()[self.model.head]['kernel']

  def _read(self, writer, step, result, limit):
    """Waits for a step, counted from 0, and adds its metrics up."""
    values = {name: float(value) for name, value in result.items()}
    self._stop.hear()
    self._clock.tick()
    progress = self.progress
    if reason := self._bad_steps.reason(values, limit):
      self._bad_steps.handle(writer, progress, step, values, reason)
      return
    progress.skipped_in_a_row = 0
    progress.add(step, values)

  def _log(self, writer):
    progress, steps = self.progress, self.progress.steps
    step_seconds = self._clock.lap()
    values = {
        'epoch': progress.step / self.timetable.steps_per_epoch,
        'loss': progress.loss / steps,
        'top1': progress.top1 / steps,
        'learning_rate': self._displayed_rate(),
        'images_per_second': (
            self.config.batch_size / step_seconds if step_seconds else None
        ),
    }
    progress.train_error = 1 - values['top1']
    progress.clear_sums()
    writer.write('train', progress.step, values)
    total = self.timetable.total_steps
    left = self._clock.remaining(total - progress.step)
    self._console.progress(
        progress_line(values, progress.step, total, left)
    )

  def _evaluate_and_record(self, writer):
    """Returns whether this is one of the best states so far, to be kept."""
    result = self.evaluate('centre')
    step = self.progress.step
    writer.write('eval_centre', step, result)
    line = format_result('centre', result)
    self._console.print(f'step {step}: {line}')
    self._observer.observe(writer, step, self.state, self._rates())
    heap.give_back()
    self.progress.evaluated_step = step
    if self.observe_error(1 - result['top1']):
      self._console.print(
          f'the validation error has stopped improving: learning rate '
          f'{self._displayed_rate():.3g}'
      )
    return self.progress.note_evaluation(
        result['top1'], self.config.keep_best
    )

  def _finish(self, writer):
    results = {
        'step': self.progress.step,
        'train_seconds': self.progress.seconds,
        'centre': self._centre_result(),
    }
    if self.progress.pretrained:
      results['pretrained'] = self.progress.pretrained
    if self.config.ten_views:
      results['ten'] = self.evaluate('ten')
      writer.write('eval_ten', self.progress.step, results['ten'])
    return results

  def _centre_result(self):
    # From the file, which has it even if the run was killed after it.
    recorded = multihost.of_first(self._recorded_centre_result())
    return recorded or self.evaluate('centre')

  def _recorded_centre_result(self):
    records = read_records(self.workdir / 'metrics.jsonl')
    for record in reversed(records):
      key = record.pop('kind'), record.pop('step')
      if key == ('eval_centre', self.progress.step):
        return record
    return None

  def _save(self, *, required):
    self.progress.seconds = self._clock.seconds
    self._recovery.save(self.state, self.progress, required=required)

  # --- Evaluating ---

  def evaluate(self, views: str) -> dict[str, float]:
    """Evaluates the parameters as they are, see `evaluator.evaluate`."""
    return self.task.evaluate(
        self.state.params,
        views,
        stop=self._stop.agree,
        give_up=self._stop.alone,
    )


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    profile_steps: str | None = None,
) -> dict[str, Any] | None:
  """Trains a run to its end, or continues it; see `Run.train`.

  Args:
    config: as from configs/alexnet.py.
    workdir: folder of the run, made if need be.
    profile_steps: 'A:B' to write a trace of these steps, see profiling.py.
  """
  steps = profiling.parse(profile_steps)
  workdir = paths.local(workdir, 'the workdir')
  return Run(config, workdir, Console(), profile_steps=steps).train()
