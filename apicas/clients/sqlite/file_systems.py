"""Which file systems a pool's file can be shared on.

SQLite's write-ahead log needs memory that all processes share, and locks that work. A file system that is mounted by
several nodes has the first never and the second sometimes; there a pool is used by one process at a time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")

# As mount names them. Of the FUSE ones, all are taken for network ones but those below.
# fmt: off
_NETWORK: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "cvmfs", "daos", "davfs", "dvs", "fuse", "gfs2", "glusterfs", "gpfs",
    "lustre", "mmfs", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3",
    "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
})
# fmt: on
_LOCAL_FUSE: Final = frozenset({"fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.lxcfs"})
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the file system that a path lies on, where several nodes may mount it; None for a local one.

    Args:
        path: absolute, without symbolic links; it need not exist.
        mounts: the system's table of mounts. Where there is none, as outside Linux, every path is taken for local.
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = _type_at(path, table)
    return kind if kind is not None and is_network(kind) else None


def is_network(kind: str) -> bool:
    """Whether a file system of this type may be mounted by several nodes."""
    return kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def _type_at(path: Path, table: str) -> str | None:
    """The type of the innermost mount that holds a path; of several at one place, the last covers the others."""
    above = {str(path), *(str(parent) for parent in path.parents)}
    best, kind = "", None
    for line in table.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if point in above and len(point) >= len(best):
            best, kind = point, tail.split(" ", 1)[0]
    return kind
