"""Breaks the code, one place after the other, and counts what notices it.

  python -m tests.breakages             all, each with the tests named for it
  python -m tests.breakages --only=ops  those of files with this in their name
  python -m tests.breakages --fast      each with all of `make test-fast`

Works in a copy of the checkout. Ends with 1 if a breakage is not noticed, and
before it breaks anything if a text is not found exactly once: then the table
below is to follow the code.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]

# (file, text, what it becomes, the tests that should notice)
BREAKAGES = (
    ('main.py', 'return cli.STOPPED if results is None else 0', 'return 0',
     'training/trainer_test.py::RestartTest'),
    ('main.py', '_CONFIG.value, _WORKDIR.value, _PROFILE_STEPS.value',
     '_CONFIG.value, _WORKDIR.value, None',
     'training/profiling_test.py::ProfilingTest'),
    ('configs/alexnet.py', 'config.ten_views = True',
     'config.ten_views = False', 'defaults_test.py'),
    ('configs/alexnet_2012.py',
     "model.conv1.after = ('lrn', 'pool', 'activation')",
     "model.conv1.after = ('lrn', 'pool')", 'models/oracle_test.py'),
    ('alexnet/models/alexnet.py', 'alpha /= self.lrn.n', 'alpha *= 1.0',
     'models/oracle_test.py'),
    ('alexnet/models/layers.py', 'return add_bias(y, bias)', 'return y',
     'models/oracle_test.py'),
    ('alexnet/models/alexnet.py',
     'jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)', 'keys',
     'models/oracle_test.py'),
    ('alexnet/ops/dropout.py',
     "return x * jnp.asarray(keep, x.dtype) if kind == 'paper' else x",
     'return x', 'ops/ops_test.py'),
    ('alexnet/ops/losses.py', 'earlier = jnp.arange(scores.shape[-1]) <',
     'earlier = jnp.arange(scores.shape[-1]) >',
     'training/train_step_test.py::RanksTest'),
    ('alexnet/ops/normalization.py', 'x, (1, size, size, 1), 1, k, alpha / '
     'size**2, beta', 'x, (1, size, size, 1), 1, k, alpha / size, beta',
     'ops/forms_test.py'),
    ('alexnet/training/optimizer.py', 'jnp.where(rate == 0, 1.0, momentum) * v',
     'momentum * v', 'training/optimizer_test.py'),
    ('alexnet/training/schedules.py',
     'factor *= (at.step + 1) / warmup_steps',
     'factor *= at.step / warmup_steps', 'training/optimizer_test.py'),
    ('alexnet/training/train_step.py',
     'key = jax.random.fold_in(key, step)\n', '',
     'training/train_step_test.py'),
    ('alexnet/training/progress.py', "self.top1 += values['top1']",
     "self.top1 = values['top1']", 'training/trainer_test.py'),
    ('alexnet/checkpointing/manager.py',
     'which = max(sorted(top1), key=top1.get)', 'which = max(top1)',
     'training/resume_test.py::BestTest'),
    ('alexnet/checkpointing/manifest.py',
     'if checksums.of_file(path) != digest:', 'if False:',
     'checkpointing/manager_test.py'),
    ('alexnet/evaluation/ensemble.py',
     'weighted += np.float32(math.log(weight))', '',
     'evaluation/ensemble_test.py'),
    ('alexnet/evaluation/layer_statistics.py', "'dead': of_all(used == 0),",
     "'dead': of_all(x == 0),", 'evaluation/layer_statistics_test.py'),
    ('alexnet/inference/views.py',
     'return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)',
     'return jnp.concatenate([five, five], axis=1)', 'inference/views_test.py'),
    ('alexnet/inference/predictions.py',
     "np.argsort(-probabilities, kind='stable')[:top]",
     "np.argsort(probabilities, kind='stable')[:top]",
     'inference/predict_test.py'),
    ('alexnet/analysis/features/nearest.py',
     'rows = np.concatenate([rows, near[1] + start], axis=1)',
     'rows = np.concatenate([rows, near[1]], axis=1)',
     'analysis/features/nearest_test.py'),
    ('alexnet/analysis/report/confusion.py',
     'np.bincount(labels * classes + predicted',
     'np.bincount(predicted * classes + labels',
     'analysis/report/report_test.py'),
    ('alexnet/visualization/filters.py',
     'luminance = kernels.mean(axis=2, keepdims=True)',
     'luminance = kernels.mean(axis=3, keepdims=True)',
     'analysis/report/report_test.py::FiltersTest'),
    ('alexnet/visualization/images.py', "np.argsort(-probabilities, axis=1, "
     "kind='stable')", "np.argsort(probabilities, axis=1, kind='stable')",
     'analysis/report/report_test.py'),
    ('alexnet/metrics/writer.py', "if r['step'] < first_step",
     "if r['step'] <= first_step", 'training/bad_steps_test.py'),
    ('alexnet/metrics/clock.py',
     'if self._since is not None:\n      self._since = time.perf_counter()',
     'pass', 'training/trainer_test.py::ClockTest'),
    ('alexnet/config/intervals.py', 'batch_size - 1e-9', 'batch_size',
     'training/optimizer_test.py::DurationTest'),
    ('alexnet/config/validation.py', "'keep_best': checks.whole(0)",
     "'keep_best': checks.whole(1)", 'config/validation_test.py'),
    ('alexnet/runtime/mesh.py', 'if size % (data * accumulation):',
     'if size % data:', 'training/train_step_test.py'),
    ('alexnet/runtime/sharding.py', "return column != 0", 'return column == 0',
     'training/train_step_test.py'),
    ('alexnet/cuda_convnet/rates.py',
     "names = tuple(name for name in names if name != 'noisestdev')",
     'names = names[: len(values)]', 'cuda_convnet/cuda_convnet_test.py'),
    ('alexnet/cuda_convnet/rates.py', 'return self.schedule.rate(self.rate, '
     'progress, normal)', 'return self.rate',
     'cuda_convnet/cuda_convnet_test.py'),
    ('input_pipeline/batches/draws.py', 'words[:, 2] >= 2**31',
     'words[:, 1] >= 2**31', 'input_pipeline/batches/draws_test.py'),
    ('input_pipeline/batches/reading.py',
     'box = preprocessing.Box(*offset[i].tolist(), size, square)',
     'box = preprocessing.Box(*offset[i].tolist()[::-1], size, square)',
     'input_pipeline/pipeline_test.py'),
    ('input_pipeline/preprocessing.py', 'width = height = min(image.size)',
     'width = height = max(image.size)',
     'input_pipeline/preprocessing_test.py'),
    ('input_pipeline/statistics.py', '- np.outer(mean, mean)', '',
     'input_pipeline/statistics_test.py'),
    ('input_pipeline/images/orientation.py', '6: Image.Transpose.ROTATE_270',
     '6: Image.Transpose.ROTATE_90', 'input_pipeline/images/decoding_test.py'),
    ('input_pipeline/files/atomic.py', 'temporary.unlink(missing_ok=True)',
     'pass', 'input_pipeline/files/atomic_test.py'),
    ('input_pipeline/files/listing.py', 'if by_link and identity in seen:',
     'if False:', 'input_pipeline/listing_test.py'),
    ('input_pipeline/prepared/reader.py', 'self._starts = self._ends - sizes',
     'self._starts = self._ends - sizes + 1',
     'input_pipeline/prepared/reader_test.py'),
    ('input_pipeline/prepared/label_files.py',
     'if len(rows) != len(paths):', 'if False:',
     'input_pipeline/prepared/label_files_test.py'),
)


def check(root: pathlib.Path) -> None:
  """Ends the program if a text is not there exactly once, or a test file."""
  wrong = []
  for file, old, _, tests in BREAKAGES:
    count = (root / file).read_text().count(old)
    if count != 1:
      wrong.append(f'{file} has {old!r} {count} times')
    if not (root / 'tests' / tests.partition('::')[0]).is_file():
      wrong.append(f'there is no tests/{tests}')
  if wrong:
    sys.exit('\n'.join(wrong))


def copy(root: pathlib.Path) -> None:
  """Copies the files of the checkout that git knows."""
  names = subprocess.run(
      ['git', 'ls-files', '-z'], cwd=ROOT, check=True, capture_output=True,
      text=True,
  ).stdout
  for name in filter(None, names.split('\0')):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / name, root / name)


def is_noticed(root: pathlib.Path, arguments: list[str]) -> bool:
  """Whether a test fails."""
  done = subprocess.run(
      [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
       *arguments],
      cwd=root, capture_output=True, text=True,
  )
  if done.returncode not in (0, 1):  # Not of a test.
    sys.exit(done.stdout + done.stderr)
  return done.returncode == 1


def main() -> None:
  """Breaks all that is asked for."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default='', help='part of the file names')
  parser.add_argument('--fast', action='store_true', help='by make test-fast')
  options = parser.parse_args()
  check(ROOT)
  missed = 0
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    copy(root)
    for file, old, new, tests in BREAKAGES:
      if options.only not in file:
        continue
      path = root / file
      whole = path.read_text()
      path.write_text(whole.replace(old, new))
      start = time.monotonic()
      chosen = [
          '-m', 'not gpu and not full and not slow'
      ] if options.fast else [f'tests/{tests}']
      noticed = is_noticed(root, chosen)
      path.write_text(whole)
      missed += not noticed
      print(
          f'{"noticed" if noticed else "MISSED "} '
          f'{time.monotonic() - start:4.0f} s  {file}: {old!r}', flush=True,
      )
  print(f'{missed} missed')
  sys.exit(missed > 0)


if __name__ == '__main__':
  main()
