"""Functions that run in a case's process, on the device of JAX or PyTorch.

`step/worker.py` calls them with arguments from JSON, and answers with their
results. Frameworks are imported by the functions that use them, so that
PyTorch's process has no JAX, and ours no PyTorch.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.step import network, report, worker

# Untimed steps, of which the first compiles; number of turns.
WARM_UP = 3
TURNS = 7
_FEEDING_ROUNDS = 3


def turns(
    start: Callable[[], Any], wait: Callable[[Any], Any], seconds: float
) -> dict[str, Any]:
  """Times sequences of steps, each started without waiting for the last.

  Args:
    start: starts a step; returns what to wait for.
    wait: waits for it.
    seconds: approximate duration of all turns.

  Returns:
    'seconds_per_step', the median over turns with the lowest and highest,
    'steps_per_turn' and 'first_step_seconds'.
  """
  begin = time.perf_counter()
  wait(start())
  first = time.perf_counter() - begin
  for _ in range(WARM_UP - 1):
    begin = time.perf_counter()
    wait(start())
  alone = time.perf_counter() - begin
  count = max(2, math.ceil(seconds / TURNS / alone))
  taken = []
  for _ in range(TURNS):
    begin = time.perf_counter()
    for _ in range(count):
      last = start()
    wait(last)
    taken.append((time.perf_counter() - begin) / count)
  return {
      'seconds_per_step': report.spread(taken),
      'steps_per_turn': count,
      'first_step_seconds': first,
  }


def _jax(precision):
  import jax

  jax.config.update('jax_default_matmul_precision', precision)
  return jax


def machine() -> dict[str, Any]:
  """Describes devices, versions and settings; see `environment.describe`."""
  import jax

  from alexnet.runtime import compilation, environment, mesh

  config = network.config_of(network.Case())
  config.mesh.data = config.mesh.tower = 1
  device = jax.devices()[0]
  return {
      'backend': device.platform,
      'memory_limit': (device.memory_stats() or {}).get('bytes_limit'),
      **environment.describe(
          mesh.create_mesh(config), config.model,
          compilation.options(device, jax.numpy.dtype(config.model.dtype)),
      ),
  }


def outputs(case: dict[str, Any], precision: str, file: str) -> None:
  """Writes the logits, and losses and parameters after the first updates."""
  _jax(precision)
  from benchmarks.step import ours

  case = network.Case(**case)
  losses, params = ours.updates(case)
  worker.save(file, losses, params, logits=ours.logits(case))


def ours(
    case: dict[str, Any], precision: str, seconds: float
) -> dict[str, Any]:
  """Measures our training or inference step.

  Args:
    case: fields of `network.Case`.
    precision: precision of float32 products, as named by JAX.
    seconds: duration of the measurement.

  Returns:
    The result of `turns`; 'compile_seconds'; 'operations' of products and
    convolutions; 'bytes_accessed' as counted by XLA (operands and results of
    each kernel); 'program_bytes' (arguments, results, temporaries); and
    'peak_bytes', the most in use by the process, including kernels tried when
    compiling. None where the platform has no figure.
  """
  jax = _jax(precision)
  from benchmarks.step import ours as steps

  case = network.Case(**case)
  step = getattr(steps, f'{case.mode}_step')(case)
  begin = time.perf_counter()
  compiled = step.lower().compile()
  compile_seconds = time.perf_counter() - begin
  memory = compiled.memory_analysis()
  result = turns(step.start, jax.block_until_ready, seconds)
  stats = jax.devices()[0].memory_stats() or {}
  return {
      **result,
      'compile_seconds': compile_seconds,
      'operations': network.operations(case),
      'bytes_accessed': compiled.cost_analysis().get('bytes accessed'),
      'program_bytes': (
          memory.argument_size_in_bytes
          + memory.output_size_in_bytes
          - memory.alias_size_in_bytes
          + memory.temp_size_in_bytes
      ),
      'peak_bytes': stats.get('peak_bytes_in_use'),
  }


def pytorch(
    case: dict[str, Any],
    variant: str,
    compiled: bool,
    device: str,
    seconds: float,
) -> dict[str, Any]:
  """Measures PyTorch's training step; see step/pytorch.py.

  Args:
    case: fields of `network.Case`.
    variant: form of response normalization.
    compiled: whether to use `torch.compile`.
    device: 'cuda' or 'cpu'.
    seconds: duration of the measurement.

  Returns:
    The result of `turns`; 'compile_seconds', the duration of the first step;
    'operations'; and 'peak_bytes' of tensors up to the end of the turns.
  """
  import torch

  from benchmarks.step import pytorch as steps

  case = network.Case(**case)
  start = steps.training_step(
      case, variant=variant, compiled=compiled, device=device
  )
  on_gpu = device == 'cuda'
  wait = lambda _: torch.cuda.synchronize() if on_gpu else None
  result = turns(start, wait, seconds)
  return {
      **result,
      'version': torch.__version__,
      'compile_seconds': result['first_step_seconds'] if compiled else None,
      'operations': network.operations(case),
      'peak_bytes': torch.cuda.max_memory_allocated() if on_gpu else None,
  }


def feeding(
    case: dict[str, Any], source: str | None, images: int, seconds: float
) -> dict[str, Any]:
  """Compares steps from prepared data with steps on a constant batch.

  Args:
    case: fields of `network.Case`.
    source: folder of class folders; None for generated photographs.
    images: number of generated photographs.
    seconds: duration of a turn.

  Returns:
    'input_images_per_second' of prepared pixels and JPEG files without
    training, 'seconds_per_step' {source of the batches: median}, and 'busy',
    the share of a step's time that the computation alone takes.
  """
  from absl import flags

  from benchmarks import feeding as feeding_lib
  from benchmarks import input_pipeline

  flags.FLAGS.mark_as_parsed()  # There is no command line.
  case = network.Case(**case)
  with input_pipeline.images_to_read(source, images, None) as (source, work):
    rates = input_pipeline.measure(
        ((input_pipeline.prepared_jpeg, 0), (input_pipeline.prepared_raw, 0)),
        source, work, _FEEDING_ROUNDS, seconds,
    )
    taken = feeding_lib.measure(
        work, case.batch_size, _FEEDING_ROUNDS, 2, seconds,
        dtype=case.dtype, width=case.width,
    )
  medians = {name: statistics.median(row) for name, row in taken.items()}
  return {
      'input_images_per_second': {
          name: statistics.median(rate for rate, _ in rows)
          for name, rows in rates.items()
      },
      'seconds_per_step': medians,
      'busy': {name: medians['constant'] / medians[name] for name in rates},
  }
