"""WeightWatcher on a Llama, as its README does it: load the model with transformers, analyze, keep the table.

python bench/peers/weightwatcher_analyze.py CHECKPOINT
"""

import sys
from pathlib import Path

import torch
import weightwatcher
from transformers import AutoModelForCausalLM


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    details = weightwatcher.WeightWatcher(model=model).analyze()
    print(len(details))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
