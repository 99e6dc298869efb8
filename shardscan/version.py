"""The version: of the package, and of every record that it writes."""

__version__ = "0.1.0"
