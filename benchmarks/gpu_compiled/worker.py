"""Compiles cases, one after the other: a process of `gpu_compiled`.

  python -m benchmarks.gpu_compiled.worker CHECKOUT < CASES

CHECKOUT is the folder whose `alexnet` and `configs` are compiled, CASES a JSON
list of the fields of `programs.Case`. Writes for each a line of JSON, see
`measures.measure`. The environment is that of `__main__.environment`.
"""

import json
import sys


def main() -> None:
  """Entry point."""
  (checkout,) = sys.argv[1:]
  # `benchmarks` has been imported, from this checkout; all else has not.
  sys.path.insert(0, checkout)
  from benchmarks.gpu_compiled import measures, programs

  for fields in json.load(sys.stdin):
    result = measures.measure(programs.Case(**fields))
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
  main()
