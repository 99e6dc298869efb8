"""OPEN, its sources: how the bytes of a checkpoint are reached."""
