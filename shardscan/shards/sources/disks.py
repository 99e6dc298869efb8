"""OPEN, its disks: which files come over a network, where whoever else has them may cut them short at any time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from shardscan.shards.sources.source import IO, check_io

__all__ = ["IO", "mapping", "on_network"]

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|lustre|gpfs|beegfs\w*|gfs2|ocfs2|orangefs|pvfs2|panfs|wekafs|virtiofs|vboxsf|"
    r"fuse(\..+)?"
)


def mapping(io: str) -> Callable[[int], bool]:
    """Whether files of a device (st_dev) are to be mapped: 'mmap' all, 'read' none, 'auto' those on a local disk."""
    check_io(io)
    if io == "auto":
        remote = on_network(_mounts())
        return lambda device: device not in remote
    return lambda _: io == "mmap"


def on_network(mountinfo: str) -> frozenset[int]:
    """The devices of network file systems, and of those in user space, in the text of a mountinfo (proc(5))."""
    devices = set()
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        if dash and NETWORK.fullmatch(after.split(" ")[0]):
            major, minor = before.split(" ")[2].split(":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def _mounts() -> str:
    try:
        return MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
