"""Families are data: every file parses, names only what can be matched, and is refused in a sentence where wrong."""

from importlib import resources

import pytest

from shardscan.anatomy import canonical
from shardscan.errors import FamilyError
from shardscan.families import CONFIG_WORDS, HEAD_PLACES, LAYER, WORD, Family, families, parse

FILES = sorted(f.name for f in resources.files("shardscan.families").iterdir() if f.name.endswith(".toml"))
MINIMAL = """
name = "tiny"
architectures = ["TinyModel"]
[config]
heads = ["n_head"]
[[component]]
name = "text"
prefixes = ["model."]
layer = "h.{layer}."
[component.outside]
"wte" = "embed_tokens"
[component.inside]
"attn.q" = { role = "q_proj", heads = "(heads d) m" }
"""


@pytest.fixture(params=families(), name="family")
def _family(request: pytest.FixtureRequest) -> Family:
    return families()[request.param]


def test_there_is_a_family_for_every_file_and_it_is_named_like_it() -> None:
    assert [f"{name}.toml" for name in families()] == FILES
    assert "llama" in families()


def test_no_two_families_claim_one_architecture() -> None:
    claimed = [a for family in families().values() for a in family.architectures]
    assert len(claimed) == len(set(claimed))


def test_every_component_and_role_is_a_word(family: Family) -> None:
    rules = [*family.outside.values(), *family.inside.values()]
    assert rules
    assert all(WORD.fullmatch(rule.component) and WORD.fullmatch(rule.role) for rule in rules)


def test_every_rule_is_reached_by_the_name_that_it_is_for(family: Family) -> None:
    for module, rule in family.outside.items():
        assert family.match(canonical(module)) == (rule, None)
    for module, rule in family.inside.items():
        assert family.match(canonical(module.replace(LAYER, "0"))) == (rule, 0)
        assert family.match(canonical(module.replace(LAYER, "17"))) == (rule, 17)


def test_every_head_count_is_in_the_config(family: Family) -> None:
    counts = {rule.count for rule in family.inside.values() if rule.count}
    assert all(family.config[count] for count in counts)


def test_a_family_is_what_its_file_says() -> None:
    tiny = parse(MINIMAL, "tiny.toml")
    assert (tiny.name, tiny.architectures) == ("tiny", ("TinyModel",))
    assert tiny.config == dict.fromkeys(CONFIG_WORDS, ()) | {"heads": ("n_head",)}
    found = tiny.match("model.h.3.attn.q")
    assert found is not None
    assert (found[0].role, found[0].axis, found[0].count, found[1]) == ("q_proj", *HEAD_PLACES["(heads d) m"], 3)
    assert tiny.match("model.h.attn.q") is None
    assert tiny.match("model.h.x3.attn.q") is None


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "tiny"', "name = ", "not a family file"),
        ('name = "tiny"', "", "not a family file .*'name'"),
        ('[config]\nheads = ["n_head"]', "", "not a family file .*'config'"),
        ('role = "q_proj", ', "", "not a family file .*'role'"),
        ('"q_proj"', "7", "not a family file"),
        ('"embed_tokens"', '"Embed tokens"', "'Embed tokens' is not a name of a component or role"),
        ('"embed_tokens"', '"../../etc"', "is not a name of a component or role"),
        ('"embed_tokens"', f'"{"x" * 41}"', "is not a name of a component or role"),
        ('name = "text"', 'name = "Text"', "'Text' is not a name of a component or role"),
        ('"(heads d) m"', '"heads m"', r"'heads m' is not a place of heads; use one of \(heads d\) m"),
        ('layer = "h.{layer}."', "", "'model.attn.q' can match no tensor"),
        ('"wte"', '"wte.{layer}"', "'model.wte.{layer}' can match no tensor"),
        ('prefixes = ["model."]', 'prefixes = ["model.", "model."]', "two rules are for 'model.wte'"),
    ],
)
def test_a_family_file_that_is_wrong_is_refused_in_a_sentence(old: str, new: str, complaint: str) -> None:
    assert MINIMAL.count(old) == 1
    with pytest.raises(FamilyError, match=complaint) as refused:
        parse(MINIMAL.replace(old, new), "tiny.toml")
    message = str(refused.value)
    assert message.startswith("tiny.toml")
    assert message.endswith(".")
    assert "\n" not in message
