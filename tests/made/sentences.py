"""What every error of shardscan looks like: one sentence that a person can read in a terminal."""

from __future__ import annotations


def check_sentence(error: BaseException, limit: int = 1000) -> str:
    """The text of an error, which is printable, shorter than `limit` and ends as a sentence does."""
    message = str(error)
    assert message.endswith(".")
    assert message.isprintable()
    assert len(message) < limit
    return message
