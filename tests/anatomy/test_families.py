"""Families are data: every file parses, names only what can be matched, and is refused in a sentence where wrong."""

from importlib import resources
from pathlib import Path

import pytest

from shardscan.anatomy.axes import Axes
from shardscan.anatomy.families.family import Family
from shardscan.anatomy.families.loading import load_families, parse_family
from shardscan.anatomy.families.schema import EXPERT, LAYER, WORD
from shardscan.anatomy.names import canonical
from shardscan.errors import FamilyError

FILES = sorted(f.name for f in resources.files("shardscan.anatomy.families").iterdir() if f.name.endswith(".toml"))
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


@pytest.fixture(params=load_families(), name="family")
def _family(request: pytest.FixtureRequest) -> Family:
    return load_families()[request.param]


def test_there_is_a_family_for_every_file_and_it_is_named_like_it() -> None:
    assert [f"{name}.toml" for name in load_families()] == FILES
    assert "llama" in load_families()


def test_no_two_families_claim_one_architecture() -> None:
    claimed = [a for family in load_families().values() for a in family.architectures]
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
    tiny = parse_family(MINIMAL, "tiny.toml")
    assert (tiny.name, tiny.architectures) == ("tiny", ("TinyModel",))
    assert tiny.config == {"heads": ("n_head",)}
    found = tiny.match("model.h.3.attn.q")
    assert found is not None
    (rule,) = found.rules
    assert (rule.component, rule.role, rule.axes, found.layer) == ("text", "q_proj", Axes.parse("(heads d) m"), 3)
    assert tiny.match("model.h.attn.q") is None
    assert tiny.match("model.h.x3.attn.q") is None


def test_a_bare_name_has_the_numbers_of_its_own_and_not_of_the_prefix() -> None:
    """As of sentence-transformers' models, whose names begin with `0.auto_model.`."""
    family = parse_family(MINIMAL.replace('"model."', '"0.auto_model."'), "numbered.toml")
    for name, bare in (("0.auto_model.h.3.attn.q", False), ("h.3.attn.q", True)):
        found = family.match(name, bare=bare)
        assert found is not None
        assert (found.layer, found.expert) == (3, None)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "tiny"', "name = ", "not a family file"),
        ('name = "tiny"', "", "'name' is missing"),
        ('[config]\nheads = ["n_head"]', "", "'config' is missing"),
        ('role = "q_proj", ', "", "'role' is missing"),
        ('"q_proj"', "7", "'7' is not a name of a family, component or role"),
        ('"q_proj"', '"ov"', "'ov' is a role of our own"),
        ('["TinyModel"]', '"TinyModel"', "architectures: 'TinyModel' stands where a list should"),
        ('["TinyModel"]', "[3]", "architectures: '3' stands where a text should"),
        ('heads = ["n_head"]', "heads = 3", "config: 'heads': '3' stands where a list should"),
        ('prefixes = ["model."]', 'prefixes = "model."', "prefixes: 'model.' stands where a list should"),
        ('prefixes = ["model."]', "", "component 'text' has no prefixes"),
        ('name = "text"\n', "", "component: 'name' is missing"),
        ("[[component]]", "[component]", "component: .* stands where a list should"),
        ('"wte" = "embed_tokens"', '"wte" = ["embed_tokens"]', "'embed_tokens' stands where a table should"),
        ('role = "q_proj", ', 'role = "q_proj", rank = 3, ', "'rank' is none of role, axes, parts"),
        ('role = "q_proj", ', 'role = "q_proj", part = "../evil", ', "part: '../evil' is none of weight, bias"),
        ('role = "q_proj", ', 'role = "q_proj", transposed = "no", ', "transposed: 'no' stands where true or false"),
        ('role = "q_proj", ', 'role = "q_proj", when = { a.b = 3 }, ', "write a dotted key in quotes"),
        ('role = "q_proj", ', 'role = "q_proj", parts = ["q_proj"], ', "parts and the word parts in axes go together"),
        ('"attn.q"', '"experts.{expert}.q"', "experts have no heads of their own here"),
        ('"(heads d) m"', '"experts (heads d) m"', "experts have no heads of their own here"),
        ('"(heads d) m"', '"(d heads) m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"(heads heads d) m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"(heads m) m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"heads m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"( ) m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"(heads d parts) m", parts = ["q_proj"]', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"(heads 1) m"', "are no axes: an axis is one word"),
        ('"(heads d) m"', '"experts m"', "are no axes: experts come first"),
        ('"(heads d) m"', '"(heads parts) m", parts = ["q_proj"]', "the parts of a head need lengths"),
        ('"(heads d) m"', '"(parts d) (heads d)", parts = { q = "heads" }', "heads divide the rows or the columns"),
        ('"(heads d) m"', '"(heads d) m", when_fits = true', "when_fits needs axes whose every word is a size"),
        ('"(heads d) m"', '"(heads x) m"', "'x' is no size; say under .config. which keys hold it"),
        ('"embed_tokens"', '"Embed tokens"', "'Embed tokens' is not a name of"),
        ('"embed_tokens"', '"../../etc"', "is not a name of"),
        ('"embed_tokens"', f'"{"x" * 41}"', "is not a name of"),
        ('name = "text"', 'name = "Text"', "'Text' is not a name of"),
        ('"(heads d) m"', '"heads"', "'heads' are no axes: write rows and columns"),
        ('layer = "h.{layer}."', "", "'model.attn.q' can match no tensor"),
        ('"wte"', '"wte.{layer}"', "'model.wte.{layer}' can match no tensor"),
        ('prefixes = ["model."]', 'prefixes = ["model.", "model."]', "two rules are for 'model.wte'"),
    ],
)
def test_a_family_file_that_is_wrong_is_refused_in_a_sentence(old: str, new: str, complaint: str) -> None:
    assert MINIMAL.count(old) == 1
    with pytest.raises(FamilyError, match=complaint) as refused:
        parse_family(MINIMAL.replace(old, new), "tiny.toml")
    message = str(refused.value)
    assert message.startswith("tiny.toml")
    assert message.endswith(".")
    assert "\n" not in message


def test_a_name_of_many_numbers_is_looked_at_in_no_time() -> None:
    name = ".".join(["0"] * 100_000)
    assert load_families()["llama"].match(name) is None


def test_a_name_that_looks_like_a_rule_is_none() -> None:
    assert load_families()["llama"].match("model.layers.{layer}.self_attn.q_proj") is None


def test_defaults_are_those_of_the_models_own_code() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers comes with the extra `oracle`")
    keys = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
    for family in load_families().values():
        for kind, sizes in family.defaults.items():
            config = transformers.AutoConfig.for_model(kind)
            assert {word: getattr(config, keys.get(word, word)) for word in sizes} == sizes, kind


def test_a_family_that_extends_a_wrong_one_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for number, wrong in enumerate(("", "component = 3", "component = [{}]", "config = [1]")):
        (tmp_path / f"{number}").mkdir()
        head = "architectures = []\n[config]\n" if "config" not in wrong else "architectures = []\n"
        (tmp_path / f"{number}" / "base.toml").write_text(f'name = "base"\n{wrong}\n{head}')
        (tmp_path / f"{number}" / "a.toml").write_text('name = "a"\nextends = "base"\narchitectures = ["A"]')
        with pytest.raises(FamilyError):
            load_families([tmp_path / f"{number}"])
