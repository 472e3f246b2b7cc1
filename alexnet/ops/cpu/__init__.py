"""Operations in the forms that XLA's CPU backend is fast in."""
