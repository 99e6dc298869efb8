"""Families are data: every file parses, names only what can be matched, and is refused in a sentence where wrong."""

from importlib import resources

import pytest

from shardscan.axes import Axes
from shardscan.errors import FamilyError
from shardscan.families import EXPERT, LAYER, WORD, Family, families, parse
from shardscan.names import canonical

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
"attn.q" = { role = "q_proj", axes = "(heads d) m" }
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
    rules = [rule for rules in family.rules.values() for rule in rules]
    assert rules
    assert all(WORD.fullmatch(rule.component) and WORD.fullmatch(rule.role) for rule in rules)


def test_every_rule_is_reached_by_the_name_that_it_is_for(family: Family) -> None:
    for module, rules in family.rules.items():
        for layer, expert in ((0, 1), (17, 0)):
            name = canonical(module.replace(LAYER, str(layer)).replace(EXPERT, str(expert)))
            found = family.match(name)
            assert found is not None, name
            assert found.rules == rules
            assert found.layer == (layer if LAYER in module else None)
            assert found.expert == (expert if EXPERT in module else None)


def test_a_family_is_what_its_file_says() -> None:
    tiny = parse(MINIMAL, "tiny.toml")
    assert (tiny.name, tiny.architectures) == ("tiny", ("TinyModel",))
    assert tiny.config == {"heads": ("n_head",)}
    found = tiny.match("model.h.3.attn.q")
    assert found is not None
    (rule,) = found.rules
    assert (rule.component, rule.role, rule.axes, found.layer) == ("text", "q_proj", Axes.parse("(heads d) m"), 3)
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
        ('"(heads d) m"', '"heads"', "'heads' are no axes: write rows and columns"),
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
