"""OPEN, its container formats: how each says which tensors a file has."""
