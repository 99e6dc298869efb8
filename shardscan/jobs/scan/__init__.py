"""The scan: open → name → plan → reduce → store → catalog."""
