"""WeightWatcher on a Llama, as its README does it: load the model with transformers, analyze, keep the table.

python bench/peers/weightwatcher_analyze.py CHECKPOINT
"""

import sys
from pathlib import Path

import torch
import weightwatcher  # type: ignore[import-not-found,import-untyped,unused-ignore]
from transformers import AutoModelForCausalLM  # type: ignore[import-not-found,import-untyped,unused-ignore]


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    details = weightwatcher.WeightWatcher(model=model).analyze()
    print(len(details))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
