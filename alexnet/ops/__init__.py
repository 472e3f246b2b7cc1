"""The operations of the networks, on arrays; ops/cpu has their forms for CPUs."""
