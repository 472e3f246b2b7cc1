"""Descriptions of GPUs, to compile for them without a device.

XLA's CUDA plugin compiles ahead of time from what it would query from a device.
"""

import jax
from jax.experimental import topologies

# Fields of a device: multiprocessors, bytes of shared memory per multiprocessor
# and per block, memory's bandwidth and size, cache, compute capability, name.
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "NVIDIA {name}"
"""
_FIGURES = {
    'H100': dict(
        name='H100 80GB HBM3', major=9, cores=132, units=128, clock=1.98,
        shared_memory=233472, shared_memory_of_block=232448, cache=52428800,
        bandwidth=3352320000000, memory=84929347584,
    ),
    'A100': dict(
        name='A100-SXM4-80GB', major=8, cores=108, units=64, clock=1.41,
        shared_memory=167936, shared_memory_of_block=166912, cache=41943040,
        bandwidth=2039000000000, memory=84929347584,
    ),
}
NAMES = tuple(_FIGURES)


def gpus(name: str, count: int) -> list[jax.Device]:
  """Returns the devices of one host, for compilation only.

  Args:
    name: one of NAMES.
    count: number of devices.

  Raises:
    RuntimeError: JAX has no plugin for CUDA, see the Makefile's gpu-compiled.
  """
  description = _DESCRIPTION.format(**_FIGURES[name])
  return topologies.get_topology_desc(
      platform='cuda', target_config=description, topology=f'1x1x{count}'
  ).devices
