"""Operations on arrays that the networks are made of, one file a kind.

Shapes are those that one device sees. Each operation begins with its plain
form, which is the formula. Forms that are faster on a CPU, or move fewer bytes
on an NVIDIA GPU, are in `ops.cpu` and `ops.gpu`. One function chooses,
`forms.chosen`; `forms.plain_forms` has it always choose the plain form. Their
speed is that of functions compiled by `runtime.compilation.jit_for`.
"""
