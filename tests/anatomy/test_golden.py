"""NAME, by what real implementations create: every tensor of each architecture has the place that a person has read."""

from __future__ import annotations

import pytest

from made import golden
from shardscan.anatomy.families.loading import load_families
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import Anatomy

ARCHITECTURES = {golden.read(name).cls for name in golden.NAMES}


@pytest.fixture(params=golden.NAMES, name="file")
def _file(request: pytest.FixtureRequest) -> golden.Golden:
    return golden.read(request.param)


@pytest.fixture(name="anatomy")
def _anatomy(file: golden.Golden) -> Anatomy:
    return place_tensors(golden.checkpoint(file.shapes, file.config))


def test_every_tensor_has_its_place(file: golden.Golden, anatomy: Anatomy) -> None:
    assert list(golden.lines(anatomy)) == list(file.lines)


def test_nearly_every_parameter_has_a_role(anatomy: Anatomy) -> None:
    assert golden.share(anatomy) >= 0.99


def test_nothing_is_odd_about_what_an_implementation_creates(anatomy: Anatomy) -> None:
    assert [(p.tensor.name, p.reason) for p in anatomy.placed if p.reason] == []


def test_the_matrices_of_a_tensor_hold_each_of_its_values_once(anatomy: Anatomy) -> None:
    for p in anatomy.placed:
        if p.matrices:
            rows, cols = p.stored_shape
            held = [0] * rows
            for matrix in p.matrices:
                for row in matrix.stored_rows.indices(0, len(matrix.stored_rows)):
                    held[row] += len(matrix.stored_cols)
            assert set(held) == {cols}, p.tensor.name
            columns = {c for m in p.matrices for c in m.stored_cols.indices(0, len(m.stored_cols)).tolist()}
            assert columns == set(range(cols)), p.tensor.name


def test_the_families_that_ship_are_all_among_them() -> None:
    used = {word for name in golden.NAMES for word in _family(name).split("+")}
    assert load_families().keys() - used == set()
    assert len(ARCHITECTURES) >= 35


def _family(name: str) -> str:
    file = golden.read(name)
    return place_tensors(golden.checkpoint(file.shapes, file.config)).family or ""


@pytest.mark.parametrize("name", [name for name in golden.NAMES if golden.read(name).how != "published"])
def test_names_and_shapes_are_those_that_transformers_creates(name: str) -> None:
    file = golden.read(name)
    pytest.importorskip("transformers", reason="transformers comes with the extra `oracle`")
    shapes, config = golden.made(file)
    assert shapes == file.shapes
    assert config == file.config


# which of two norms comes first is in the config alone
BY_CONFIG_ALONE = {"opt-350m"}


@pytest.mark.parametrize("name", [name for name in golden.NAMES if name not in BY_CONFIG_ALONE])
def test_without_a_config_names_and_shapes_give_the_same_places_and_no_heads(name: str) -> None:
    file = golden.read(name)
    with_config, without = (place_tensors(golden.checkpoint(file.shapes, config)) for config in (file.config, None))
    for a, b in zip(with_config.placed, without.placed, strict=True):
        assert (a.place, {m.turned for m in a.matrices}) == (b.place, {m.turned for m in b.matrices}), a.tensor.name
        assert [m for m in b.matrices if m.heads] == []
        if any(m.heads for m in a.matrices):
            assert b.reason is not None
            assert "no config.json says how large" in b.reason
