"""OPEN: bytes with an address. Shard files, whatever their container and wherever they are, become tensors."""
