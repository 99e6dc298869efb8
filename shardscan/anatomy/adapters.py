"""NAME, its adapters: what those who train them call the factors of a change, by the algebra that they have. Pure.

Of LoRA in any dialect the change is B · A, of A (r, inputs) and B (outputs, r). All others are recognised, so that
nothing takes their factors for weights, and their changes are not computed.

Sources: PEFT 0.17 (LoRA, DoRA, IA3, VeRA, OFT, LoHa, LoKr), kohya's sd-scripts, LyCORIS, diffusers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

A, B = "A", "B"
ADAPTER = "adapter"  # the part of what is no factor of B · A

# the adapter's name, in PEFT's, is there or not
_NAMED = r"(\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
LORA = re.compile(
    r"(?P<module>.+?)"
    r"(?:"
    rf"\.lora_(?P<embedding>embedding_)?(?P<peft>[AB]){_NAMED}(\.weight)?"  # PEFT, of linear modules and of embeddings
    r"|\.lora_(?P<kohya>down|up)\.weight"  # kohya, LyCORIS
    r"|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<diffusers>down|up)\.weight"  # diffusers
    r")"
)
FACTORS = {"down": A, "up": B}
OTHERS = {
    "LoHa": re.compile(r"(?P<module>.+)\.hada_(w[12]_[ab]|t[12])(\.[^.]+)?"),
    "LoKr": re.compile(r"(?P<module>.+)\.lokr_(w[12](_[ab])?|t2)(\.[^.]+)?"),
    "IA3": re.compile(r"(?P<module>.+)\.ia3_l(\.[^.]+)?(\.weight)?"),
    "VeRA": re.compile(r"(?P<module>.+)\.vera_(A|B|lambda_[bd])(\.[^.]+)?(\.weight)?"),
    "OFT": re.compile(r"(?P<module>.+)\.b?oft_(r|R|s|blocks|diag)(\.[^.]+)?(\.weight)?"),
    "DoRA": re.compile(r"(?P<module>.+)\.(lora_magnitude_vector|dora_scale)(\.[^.]+)?(\.weight)?"),
    "AdaLoRA": re.compile(r"(?P<module>.+)\.(lora_E|ranknum)(\.[^.]+)?"),
    "LoRA's bias": re.compile(r"(?P<module>.+)\.lora_B(\.[^.]+)?\.bias"),
    "LoRA's middle factor": re.compile(r"(?P<module>.+)\.lora_mid\.weight"),
    "LoRA's scale": re.compile(r"(?P<module>lora_\w+)\.alpha"),  # kohya's
}
UNDERSCORED = re.compile(r"(?<=_)[0-9]{1,6}(?=_)")  # kohya's names have no dots: lora_te_text_model_encoder_layers_0_…
# one is in every name of an adapter's, and in few others
HINTS = ("lora", "ranknum", "hada_", "lokr_", "ia3_", "vera_", "oft_", "dora_")
WRAPPED = ".base_layer"  # PEFT's: the module that an adapter wraps


class Factor(NamedTuple):
    """A or B of a LoRA pair; `wrapped` is how many wrappers of one module are around the one that has it."""

    module: str
    factor: str
    adapter: str | None
    embedding: bool
    wrapped: int


class Other(NamedTuple):
    """Something of another adapter, and of which kind."""

    module: str
    kind: str


def find_factor(name: str) -> Factor | None:
    """What the canonical name of a LoRA factor says; None of any other tensor's."""
    match = LORA.fullmatch(name) if "lora" in name else None
    if not match:
        return None
    module = match["module"]
    factor = match["peft"] or FACTORS[match["kohya"] or match["diffusers"]]
    wrapped = (len(module) - len(module.replace(WRAPPED, ""))) // len(WRAPPED)
    return Factor(_unwrapped(module), factor, match["adapter"], match["embedding"] is not None, wrapped)


def find_other(name: str) -> Other | None:
    """What the canonical name of any other part of an adapter says."""
    if not any(hint in name for hint in HINTS):
        return None
    found = ((match, kind) for kind, pattern in OTHERS.items() if (match := pattern.fullmatch(name)))
    return next((Other(_unwrapped(match["module"]), kind) for match, kind in found), None)


def find_underscored(name: str) -> re.Match[str] | None:
    """The first number in a name of kohya's, which is a layer's; None in all others."""
    return UNDERSCORED.search(name) if name.startswith("lora_") else None


def _unwrapped(module: str) -> str:
    return module.replace(WRAPPED, "")
