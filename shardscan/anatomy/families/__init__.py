"""NAME, its data: naming families, read from TOML files and checked when they load.

A family says which architectures it covers, which config keys hold its sizes, and which module names have which role,
with the axes of their weights. llama.toml explains the form by example.
"""
