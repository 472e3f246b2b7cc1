"""Forms of operations that move the fewest bytes through a GPU's memory.

On GPUs, all operations but convolutions and products are bound by memory. Two
properties of XLA matter: it fuses slices, padding and element-wise operations
into the kernels that read them, so their results need not be stored; and it
merges equal computations unless an optimization_barrier separates them.
"""
