"""What every command tells: sizes and counts, as people write them."""

from __future__ import annotations


def format_size(nbytes: int) -> str:
    """Bytes in the unit that shows them best, as disks count: powers of 1000."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    power = next((i for i in (1, 2, 3) if nbytes < 1000 ** (i + 1)), 4)
    return f"{nbytes / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def format_count(n: int, noun: str) -> str:
    """`1 tensor`, `2,000 tensors`: a number and its noun."""
    return f"{n:,} {noun if n == 1 else {'axis': 'axes'}.get(noun, noun + 's')}"
