"""Become an ordinary user before bubblewrap starts: the host's root is then nowhere inside.

``python launch.py '{"user": 65534, "stage": {"/root/python": "0"}, "at": "/tmp"}' bwrap ...``

Root's programs in a user namespace are still the host's root to every file of /proc/sys. So a process of root gives up
root for good first. Folders that only root can reach are bound to places below `at` before, in a mount namespace of
this process alone. A script on the standard library, run by root only.
"""

import ctypes
import json
import os
import sys

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 12, 1 << 14, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Bind, drop root, become the command; `SystemExit` with the reason where the kernel refuses."""
    spec, words = json.loads(sys.argv[1]), sys.argv[2:]
    if spec["stage"]:
        _stage(spec["stage"], spec["at"])
    os.setgroups([])
    os.setresgid(spec["user"], spec["user"], spec["user"])
    os.setresuid(spec["user"], spec["user"], spec["user"])
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise SystemExit("root could not be given up")
    os.execv(words[0], words)


def _stage(folders: dict[str, str], at: str) -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    sources = {name: os.open(folder, os.O_PATH) for folder, name in folders.items()}  # `at` may hide them
    _check(_libc.mount(b"tmpfs", at.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=755,size=1m"), "a tmpfs")
    for name, source in sources.items():
        place = f"{at}/{name}"
        if os.path.isdir(f"/proc/self/fd/{source}"):  # noqa: PTH112 - a script without imports that cost time
            os.mkdir(place)  # noqa: PTH102
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
        _check(_libc.mount(f"/proc/self/fd/{source}".encode(), place.encode(), None, _MS_BIND | _MS_REC, None), place)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
