"""Fuzzes every reader of untrusted files with mutated ones.

  python -m benchmarks.fuzz                   160,000 images, 10,000 others
  python -m benchmarks.fuzz --images=500 --files=500
  python -m benchmarks.fuzz --only=definition --first=17 --files=1

An input is a function of the seed, the reader's name and its number. It may be
accepted, or refused with an error for users. Everything else is a finding:
another error, a crash, more than 5 s of CPU time, more than 1 GiB of memory, a
modified checkpoint that is accepted, or an image that is refused or decoded
differently because of its metadata. Findings are saved in --findings with their
inputs, and make the exit status 1.

Linux only. docs/hostile_input.md describes what is read, and the limits.
"""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import app, flags

from benchmarks.fuzzing import worker as worker_lib
from input_pipeline.files import paths, streams

_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the inputs.')
_IMAGES = flags.DEFINE_integer(
    'images', 100_000,
    'Number of mutated JPEG and PNG files. There are a tenth as many of each '
    'other format, and a fifth as many intact images with mutated metadata.',
)
_FILES = flags.DEFINE_integer(
    'files', 10_000, 'Number of other mutated files, shared by their readers.'
)
_FIRST = flags.DEFINE_integer('first', 0, 'Number of the first input.')
_ONLY = flags.DEFINE_multi_string(
    'only', None, 'Reader to test. Repeat it for several. Default: all.'
)
_WORKERS = flags.DEFINE_integer(
    'workers', None, 'Number of processes. Default: one per core.'
)
_FINDINGS = flags.DEFINE_string('findings', 'findings', 'Folder for findings.')
_JSON = paths.define('json', 'Write the results as JSON to this file.')

IMAGES = {
    'image': 'benchmarks.fuzzing.images:Images',
    'webp': 'benchmarks.fuzzing.images:WebP',
    'gif': 'benchmarks.fuzzing.images:GIF',
    'tiff': 'benchmarks.fuzzing.images:TIFF',
    'bmp': 'benchmarks.fuzzing.images:BMP',
    'metadata': 'benchmarks.fuzzing.metadata:Metadata',
}
# Divisors of --images.
_SHARES = {'image': 1, 'metadata': 5}
_OF_FORMAT = 10
# Readers that share --files equally.
FILES = {
    name: f'benchmarks.fuzzing.files:{target}'
    for name, target in {
        'checkpoint': 'Checkpoints',
        'forged_checkpoint': 'ForgedCheckpoints',
        'definition': 'Definitions',
        'workdir': 'Workdirs',
        'prepared': 'Prepared',
        'features': 'Features',
        'archive': 'Archives',
    }.items()
}
_CHUNK = 100


@dataclasses.dataclass
class Report:
  """Results of one reader.

  Attributes:
    name: name of the reader.
    outcomes: number of inputs by kind of 'accepted' and 'refused'.
    cpu, wall: seconds of the slowest input.
    peak: largest memory of a process while reading an input, in bytes.
    seconds: duration of all inputs.
    findings: (number of the input, what happened).
  """

  name: str
  outcomes: dict[str, collections.Counter] = dataclasses.field(
      default_factory=lambda: {
          'accepted': collections.Counter(), 'refused': collections.Counter()
      }
  )
  cpu: float = 0.0
  wall: float = 0.0
  peak: int = 0
  seconds: float = 0.0
  findings: list[tuple[int, str]] = dataclasses.field(default_factory=list)

  @property
  def inputs(self) -> int:
    """Number of inputs."""
    counted = sum(sum(kinds.values()) for kinds in self.outcomes.values())
    return counted + len(self.findings)

  def add(self, result: dict[str, Any]) -> None:
    """Counts the result of an input, see worker.py."""
    for name in ('cpu', 'wall', 'peak'):
      setattr(self, name, max(getattr(self, name), result[name]))
    if result['outcome'] == 'finding':
      self.findings.append((result['number'], result['kind']))
    else:
      self.outcomes[result['outcome']][result['kind']] += 1

  def lines(self) -> Iterator[str]:
    """Yields lines for a terminal."""
    total = lambda name: sum(self.outcomes[name].values())
    yield (
        f'{self.name}: {self.inputs:,} inputs in {self.seconds:.0f} s, '
        f'{total("accepted"):,} accepted, {total("refused"):,} refused, '
        f'{len(self.findings)} finding(s); slowest {self.cpu:.2f} s of the '
        f'processor ({self.wall:.2f} s), peak memory '
        f'{self.peak / 2**20:,.0f} MiB'
    )
    for outcome in ('accepted', 'refused'):
      for kind, count in self.outcomes[outcome].most_common():
        yield f'  {outcome} {count:7,}  {kind}'
    for number, what in self.findings:
      yield f'  FINDING at {number}: {what}'


class _Worker:
  """A process of fuzzing/worker.py, restarted when it dies."""

  def __init__(self, target: str, seed: int):
    self._target, self._seed = target, seed
    self._process: subprocess.Popen | None = None
    self.folder: pathlib.Path | None = None

  def _start(self):
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_'))
    self._log = open(self.folder / 'log', 'w+')
    self._process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.fuzzing.worker', self._target,
         str(self._seed), str(self.folder)],
        cwd=pathlib.Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._log,
        text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )

  def read(self, first: int, end: int) -> Iterator[dict]:
    """Yields results of the inputs `first` to `end` - 1."""
    while first < end:
      if self._process is None:
        self._start()
      try:
        self._process.stdin.write(f'{first} {end}\n')
        self._process.stdin.flush()
      except BrokenPipeError:
        pass  # Reported below.
      begun = None
      for line in self._process.stdout:
        if line == 'ready\n':
          return
        value = json.loads(line)
        if isinstance(value, int):
          begun = value
          continue
        yield value
        first, begun = value['number'] + 1, None
      status = self._process.wait()
      if begun is None:
        text = self._tail()
        self.close()
        raise RuntimeError(
            f'the worker of {self._target} ended between two inputs, with '
            f'status {status}: {text}'
        )
      yield {
          'number': begun, 'outcome': 'finding', 'kind': self._death(status),
          'cpu': 0.0, 'wall': 0.0, 'peak': 0,
      }
      first = begun + 1
      self.close()

  def _death(self, status):
    if status == -signal.SIGPROF:
      return f'took more than {worker_lib.CPU_SECONDS} s of the processor'
    if status == -signal.SIGALRM:
      return f'waited longer than {worker_lib.WALL_SECONDS} s'
    if status < 0:
      return f'died by {signal.Signals(-status).name}: {self._tail()}'
    return f'ended the process, status {status}: {self._tail()}'

  def _tail(self):
    self._log.seek(0)
    return ' '.join(self._log.read()[-600:].split())

  def close(self):
    """Ends the process."""
    if self._process is None:
      return
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    self._log.close()
    self._process = None
    shutil.rmtree(self.folder, ignore_errors=True)


def _keep(folder, number, path):
  """Copies the input of a finding from a worker's folder."""
  # CURRENT if the process died of it.
  current = folder / worker_lib.CURRENT
  for kept in (current.with_name(f'{current.name}-{number}'), current):
    if kept.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(kept, path)
      break


def fuzz(
    name: str,
    target: str,
    *,
    inputs: int,
    first: int = 0,
    seed: int = 0,
    workers: int | None = None,
    findings: pathlib.Path | None = None,
) -> Report:
  """Fuzzes one reader.

  Args:
    name: name of the reader, for the report.
    target: MODULE:CLASS, see `worker.Target`.
    inputs: number of inputs.
    first: number of the first input.
    seed: seed of all inputs.
    workers: number of processes; None for one per core.
    findings: folder for the inputs of findings; None keeps none.
  """
  workers = workers or len(os.sched_getaffinity(0))
  report, lock, failures = Report(name), threading.Lock(), []
  chunks = iter(range(first, first + inputs, _CHUNK))
  start = time.perf_counter()
  bar = streams.progress(None, name, inputs, unit='input', leave=False)

  def note(result, folder):
    bar.update()
    report.add(result)
    if result['outcome'] != 'finding':
      return
    number = result['number']
    bar.write(f'{name}: FINDING at {number}: {result["kind"]}')
    if findings:
      _keep(folder, number, findings / f'{name}-{seed}-{number}')

  def work():
    worker = _Worker(target, seed)
    try:
      while not failures:
        with lock:
          begin = next(chunks, None)
        if begin is None:
          return
        end = min(begin + _CHUNK, first + inputs)
        for result in worker.read(begin, end):
          with lock:
            note(result, worker.folder)
    except Exception as error:
      failures.append(error)
    finally:
      worker.close()

  threads = [
      threading.Thread(target=work)
      for _ in range(min(workers, -(-inputs // _CHUNK)))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  bar.close()
  if failures:
    raise failures[0]
  report.findings.sort()
  report.seconds = time.perf_counter() - start
  return report


def main(argv: list[str]) -> int:
  """Fuzzes the readers selected by the flags."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  readers = IMAGES | FILES
  names = _ONLY.value or list(readers)
  if unknown := set(names) - set(readers):
    raise app.UsageError(f'--only is {unknown}: expected some of {[*readers]}')
  files = [name for name in names if name in FILES]
  reports = []
  for name in names:
    if name in IMAGES:
      inputs = -(-_IMAGES.value // _SHARES.get(name, _OF_FORMAT))
    else:  # As equal as possible, with the exact total.
      place = files.index(name)
      inputs = (_FILES.value + place) // len(files)
    reports.append(
        fuzz(
            name,
            readers[name],
            inputs=inputs,
            first=_FIRST.value,
            seed=_SEED.value,
            workers=_WORKERS.value,
            findings=pathlib.Path(_FINDINGS.value),
        )
    )
    print('\n'.join(reports[-1].lines()), flush=True)
  if _JSON.value:
    values = [vars(report) for report in reports]
    _JSON.value.write_text(json.dumps(values, indent=1) + '\n')
  found = sum(len(report.findings) for report in reports)
  inputs = sum(report.inputs for report in reports)
  print(f'{inputs:,} inputs, {found} finding(s), seed {_SEED.value}')
  return 1 if found else 0


if __name__ == '__main__':
  app.run(main)
