"""Trains and evaluates AlexNet.

Run it as

  python main.py --config=configs/alexnet.py --workdir=runs/alexnet

or in several processes at once, which train one run (docs/many_hosts.md).

Exit status: 0 if the run is finished; 75 if a signal stopped it and it is
saved (the same command continues it); 1 after an error; 76 if another process
of the run was lost.
"""

from absl import app, flags
from ml_collections import config_flags

from alexnet.runtime import compilation_cache, distributed, heap, settings
from input_pipeline import cli
from input_pipeline.files import paths

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the config, FILE[:DATASET].'
)
_WORKDIR = paths.define(
    'workdir', 'Folder of the run, for checkpoints, metrics and results.'
)
_PROFILE_STEPS = flags.DEFINE_string(
    'profile_steps', None,
    "Write a trace of these steps, such as '100:105'; see docs/usage.md.",
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  settings.fix()
  # Imports JAX and TensorFlow, which --help does not need.
  from alexnet.training import trainer

  heap.keep_freed()
  compilation_cache.use_cache()
  with distributed.session():
    results = trainer.train_and_evaluate(
        _CONFIG.value, _WORKDIR.value, _PROFILE_STEPS.value
    )
  return cli.STOPPED if results is None else 0


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(main)
