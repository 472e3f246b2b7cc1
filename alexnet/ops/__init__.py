"""Array operations of the networks, one file per kind.

Shapes are those on one device. Each operation begins with its plain form, the
formula. Forms that are faster on a CPU, or move fewer bytes on an NVIDIA GPU,
are in `ops.cpu` and `ops.gpu`. `forms.chosen` selects one; within
`forms.plain_forms` it always selects the plain form. Compile them with
`runtime.compilation.jit_for`, for which they are tuned.
"""
