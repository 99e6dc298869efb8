"""The least that any scan must do: every byte of the shards in order, 16 MiB at a time into one buffer.

python bench/peers/cold_read.py CHECKPOINT
"""

import os
import sys
from pathlib import Path

BUFFER = 16 << 20


def main(folder: Path) -> None:
    buffer, total = bytearray(BUFFER), 0
    for path in sorted(folder.glob("*.safetensors")):
        fd = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while n := os.readv(fd, [buffer]):
            total += n
        os.close(fd)
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
