"""What `questions` prints: the questions that ship with shardscan."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def tabulate_questions() -> pa.Table:
    """One row a question: name, title, parameters with their defaults."""
    import pyarrow as pa

    from shardscan.answers.questions import read_questions

    shipped = read_questions().values()
    return pa.table({
        "question": [question.name for question in shipped],
        "title": [question.title for question in shipped],
        "parameters": [", ".join(f"{p.name}={p.default}" for p in question.parameters) for question in shipped],
    })  # fmt: skip
