"""Forms of operations that are fast in XLA's CPU backend.

Three properties of the backend matter: it recomputes slices and element-wise
operations for each consumer unless they are stored; scatters and sums of
columns are slow; and bfloat16 is fast in matrix products only.
"""
