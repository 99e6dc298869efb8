"""What tests compare with: the same numbers once more, from the formulas, and what must hold after any fault."""
