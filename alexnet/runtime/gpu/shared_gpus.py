"""Several processes of one run each have GPUs of their own.

Two that take the same would each want three quarters of its memory, and NCCL
would refuse them, with a message that does not say what to do. So they tell
each other which they are about to take, before JAX starts them.
"""

import collections
import json
from typing import Any

from alexnet.config.errors import ConfigError
from alexnet.runtime import multihost
from alexnet.runtime.gpu import accelerators

_KEY = 'alexnet/gpus'


def check(client: Any, visible: str, seconds: int) -> None:
  """Compares the GPUs of all processes; each has to call it.

  Args:
    client: of `jax.distributed`, with its store of keys and values.
    visible: JAX's setting `jax_cuda_visible_devices`, 'all' or numbers.
    seconds: to wait for the others.

  Raises:
    ConfigError: two processes would take one GPU; in all of them.
  """
  process, count = multihost.place()
  mine = _taken(visible) if accelerators.expected() else []
  client.key_value_set(f'{_KEY}/{process}', json.dumps(mine))
  get = lambda key: client.blocking_key_value_get(key, 1000 * seconds)
  if process == 0:
    taken = {
        other: json.loads(get(f'{_KEY}/{other}')) for other in range(count)
    }
    client.key_value_set(f'{_KEY}/shared', json.dumps(_shared(taken)))
  if shared := json.loads(get(f'{_KEY}/shared')):
    names = ' and '.join(map(str, shared))
    raise ConfigError(
        f'the processes {names} of {count} would take the same GPU: start one '
        'process on each host, which drives all its GPUs, or give each process '
        'its own by JAX_LOCAL_DEVICE_IDS=0 for the first of a host, '
        'JAX_LOCAL_DEVICE_IDS=1 for the second (docs/gpus.md)'
    )


def _taken(visible):
  ids = accelerators.nvidia_ids()
  if visible == 'all':
    return ids
  chosen = {int(number) for number in visible.split(',')}
  return [one for number, one in enumerate(ids) if number in chosen]


def _shared(taken):
  """The processes that have a GPU in common, of the first such GPU."""
  owners = collections.defaultdict(list)
  for process, ids in sorted(taken.items()):
    for one in ids:
      owners[one].append(process)
  return next((them for them in owners.values() if len(them) > 1), [])
