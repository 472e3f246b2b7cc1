"""Operations in the forms that XLA's CPU backend is fast in.

They share three ways of XLA on CPUs: it computes slices and element-wise
operations anew for each reader unless they are stored; its scatters and sums of
columns are slow; and bfloat16 is fast in matrix products only.
"""
