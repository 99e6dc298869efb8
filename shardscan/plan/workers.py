"""PLAN, its workers: how many of them a given memory has room for. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar


class Budget(Protocol):
    """What a job takes with some number of workers."""

    @property
    def peak(self) -> int:
        """Bytes of anonymous memory."""


AnyBudget = TypeVar("AnyBudget", bound=Budget)


def most_workers(budget_with: Callable[[int], AnyBudget], workers: int, memory: int | None) -> AnyBudget:
    """The budget with the most workers, of at most so many, whose peak `memory` has room for; None is for any peak.

    Where not even one worker fits, the budget of one, which is too large.
    """
    for fewer in range(workers, 1, -1):
        budget = budget_with(fewer)
        if memory is None or budget.peak <= memory:
            return budget
    return budget_with(1)
