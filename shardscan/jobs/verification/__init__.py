"""VERIFY, beside the line: whether a checkpoint or a store is whole, and what in it is odd."""
