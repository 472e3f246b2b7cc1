"""The paper's numbers, and experiments beside them."""
