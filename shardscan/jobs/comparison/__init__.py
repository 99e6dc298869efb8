"""MATCH, beside the line: two checkpoints in one store, and which weight and channel of one is which of the other."""
