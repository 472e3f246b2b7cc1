"""What `make test-fast` leaves out, and what `make test-full` refuses."""

import gc
import pathlib

import pytest

import tests  # noqa: F401  # Before pytest's processes start: one cache for all.

# Files whose tests train, start processes or compile for many seconds.
_SLOW = """
  advice analysis/features/features analysis/features/hashing
  analysis/linear_probe analysis/paper/dense_table analysis/report/report
  analysis/report/report_in_browser analysis/retrieval_table
  benchmarks/benchmarks benchmarks/definitions benchmarks/fuzz
  benchmarks/gpu benchmarks/scaling benchmarks/train_step
  checkpointing/manager checkpointing/pretrained commands
  cuda_convnet/cuda_convnet cuda_convnet/shapes defaults evaluation/ensemble
  evaluation/evaluator evaluation/layer_statistics inference/export
  inference/fully_convolutional inference/predict inference/predictor
  inference/views input_pipeline/batches/python_calls
  input_pipeline/batches/workers input_pipeline/offline
  input_pipeline/pipeline input_pipeline/prepared/interrupted
  input_pipeline/prepared/reader input_pipeline/preprocessing lowering
  models/alexnet models/inference_params models/onnx models/oracle
  models/toy_network ops/cpu ops/forms ops/gpu ops/ops ops/winograd
  runtime/device_memory runtime/distributed runtime/launch runtime/settings
  runtime/shared_gpus startup training/bad_steps training/continuing
  training/crash training/elastic training/memory training/profiling
  training/reading_processes training/replay training/resume
  training/train_step training/trainer witness/witness
"""


@pytest.fixture(autouse=True, scope='module')
def forget_programs():
  """A process runs many files, whose programs would fill its memory."""
  yield
  import jax  # After `tests`.

  jax.clear_caches()
  gc.collect()


def pytest_addoption(parser):
  parser.addoption(
      '--no-skips', action='store_true', help='fail if a test is skipped'
  )


def pytest_collection_modifyitems(items):
  root = pathlib.Path(__file__).parent
  slow = {f'{name}_test.py' for name in _SLOW.split()}
  for item in items:
    if item.path.relative_to(root).as_posix() in slow:
      item.add_marker('slow')


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
  reporter = session.config.pluginmanager.get_plugin('terminalreporter')
  skipped = reporter.stats.get('skipped', []) if reporter else []
  if skipped and session.config.getoption('--no-skips'):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
