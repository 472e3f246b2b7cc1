"""Operations in the forms that move the fewest bytes through a GPU's memory.

All but the convolutions and products wait for memory there. Two ways of XLA on
GPUs decide: it fuses slices, padding and element-wise operations into the
kernels that read them, so arrays that only these make need not be stored; and
it computes once what is written twice, unless an optimization_barrier is
between.
"""
