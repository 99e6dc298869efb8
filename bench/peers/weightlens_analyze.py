"""WeightLens' command `lens analyze`, in a process that this Python starts.

python bench/peers/weightlens_analyze.py CHECKPOINT
"""

import sys
from importlib.metadata import entry_points
from pathlib import Path

if __name__ == "__main__":
    index = Path(sys.argv[1], "model.safetensors.index.json")
    (command,) = entry_points(group="console_scripts", name="lens")
    sys.argv = ["lens", "analyze", str(index)]
    sys.exit(command.load()())
