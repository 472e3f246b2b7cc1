"""A check that no two processes of a run use the same GPU.

They would each allocate three quarters of its memory, and NCCL would refuse
them with a message that does not say what to do. So the processes compare their
GPUs before JAX starts these.
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
    client: client of `jax.distributed`, which has a key-value store.
    visible: JAX's setting `jax_cuda_visible_devices`, 'all' or numbers with
      commas between them.
    seconds: number of seconds to wait for the other processes.

  Raises:
    ConfigError: two processes would use the same GPU; all processes raise it.
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
  """Returns the UUIDs of the GPUs that this process will use."""
  ids = accelerators.nvidia_ids()
  if visible == 'all':
    return ids
  chosen = {int(number) for number in visible.split(',')}
  return [one for number, one in enumerate(ids) if number in chosen]


def _shared(taken):
  """Returns the processes of the first GPU that several use; [] if none is."""
  owners = collections.defaultdict(list)
  for process, ids in sorted(taken.items()):
    for one in ids:
      owners[one].append(process)
  return next((them for them in owners.values() if len(them) > 1), [])
