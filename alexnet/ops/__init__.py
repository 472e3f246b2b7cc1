"""Operations on arrays that the networks are made of.

Shapes are those that one device sees. Some operations have a second form for
CPUs in `ops.cpu`, because XLA's plain form is several times slower there. Which
one runs is decided here, by `jax.lax.platform_dependent`, and nowhere else;
both forms are tested against each other. Their speed is that of functions
compiled by `runtime.compilation.jit_for`.
"""
