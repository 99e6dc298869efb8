"""STORE, its layout: which arrays the folder of a group holds, as the products say. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shardscan.plan import products
from shardscan.plan.tasks import Group
from shardscan.reduce.products import CompositeSteps, StackedArray, Steps, steps_of


def words() -> dict[str, Sequence[str]]:
    """What stands along each axis of words."""
    words_of_products = (steps_of(product.name, Steps).words for product in products.every())
    return {axis: labels for of_product in words_of_products for axis, labels in of_product.items()}


def stacked_arrays(group: Group) -> dict[str, dict[str, StackedArray]]:
    """Every array of a group, by folder and name: of tensors in its own, of matrices where they are stacked."""
    stack = (len(group.layers), len(group.experts))
    arrays: dict[str, dict[str, StackedArray]] = {group.folder: {}}
    for product in products.every():
        steps = steps_of(product.name, Steps)
        for part in sorted({p.place.part for p, _ in group.members}):
            of_part = {f"{name}_{part}": array for name, array in steps.tensor_arrays(stack).items()}
            arrays[group.folder].update(of_part)
        for folder, stacked in group.stacks.items():
            weights = [(p, matrix) for p, matrix, _ in stacked]
            arrays.setdefault(folder, {}).update(steps.matrix_arrays(stack, weights))
        own = [c for c in group.composites if product in products.of_composites(c.kind)]
        if own and isinstance(steps, CompositeSteps):
            arrays[group.folder].update(steps.composite_arrays(stack, own))
    return arrays
