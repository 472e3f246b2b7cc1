"""Operations on arrays that the networks are made of."""
