"""The paper's numbers, and experiments that compare with them."""
