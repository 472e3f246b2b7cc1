"""Compiles cases one by one; a process of `gpu_compiled`.

  python -m benchmarks.gpu_compiled.worker CHECKOUT < CASES

CHECKOUT is the folder whose `alexnet` and `configs` are compiled; CASES is a
JSON list of fields of `programs.Case`. It writes a line of JSON for each, see
`measures.measure`, and expects the environment of `__main__.environment`.
"""

import json
import sys


def main() -> None:
  """Entry point."""
  (checkout,) = sys.argv[1:]
  # `benchmarks` comes from this checkout, everything else from CHECKOUT.
  sys.path.insert(0, checkout)
  from benchmarks.gpu_compiled import measures, programs

  for fields in json.load(sys.stdin):
    result = measures.measure(programs.Case(**fields))
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
  main()
