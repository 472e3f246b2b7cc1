"""Operations on arrays that the networks are made of, one file a kind.

Shapes are those that one device sees. Each operation begins with its plain
form, which is the formula and what accelerators run. XLA's CPU backend is
several times slower at some of these: they have another form in `ops.cpu`. One
function chooses, `forms.chosen`; `forms.plain_forms` has it always choose the
plain form. The speed of both is that of functions compiled by
`runtime.compilation.jit_for`.
"""
