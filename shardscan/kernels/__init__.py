"""REDUCE, its kernels: the same few functions for each device; arrays in, arrays out."""
