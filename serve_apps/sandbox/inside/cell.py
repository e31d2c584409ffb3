"""One program's own namespaces inside the sandbox: users, processes, mounts, IPC, host name.

Runs inside the sandbox, on the standard library alone. A cell's processes end with its first one: nothing that a
program starts outlives it. `open_cell` is called by the zygote; everything after `fork` here runs in the cell.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

from limits import CellLimits
from syscalls import install

_libc = ctypes.CDLL(None, use_errno=True)
# user, mounts, processes, IPC, host name. The network namespace is the sandbox's own, without a network: a new one for
# each program would cost more than all the rest, and programs of one sandbox follow one another and leave nothing in it
_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36
_CLONE = {"x86_64": 56, "aarch64": 220}
READY = b"ready"
_CAPABILITY_VERSION = 0x20080522


def become_subreaper() -> None:
    """Let orphans below this process become its children, so that it can wait for every one of them."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def open_cell(limits: CellLimits, keep: dict[int, int], work: Callable[[], int], *, alone: bool = False) -> int:
    """Start `work` in a new cell and return the id of the cell's first process, a child of the caller.

    The first process waits for the program and ends with its exit code (128 + signal when one killed it). With `alone`
    the program is the first process itself: cheaper, but its signals to itself do nothing and nobody adopts its
    orphans; for programs whose exit code is not asked for. `keep` maps descriptors of this process to their numbers in
    the cell, all others are closed there. Kill the first process and the kernel kills the rest.

    Raises:
        OSError: the kernel refuses a namespace.
    """
    reading, writing = os.pipe()
    user, group = os.getuid(), os.getgid()
    first = _fork_into_namespaces() if limits.isolated and not limits.trusted else os.fork()
    if first == 0:
        _run_first(limits, keep, work, writing, (user, group), alone)
    os.close(writing)
    with open(reading, "rb") as answer:
        told = answer.read()
    if told == READY:
        return first
    os.waitpid(first, 0)
    raise OSError(told.decode(errors="replace") or "the first process of the cell died")


def _fork_into_namespaces() -> int:
    """Fork and unshare in one system call: the child is process 1 of its own namespace at once."""
    machine = os.uname().machine
    if machine not in _CLONE:
        raise OSError(f"isolation is not written for machines of the kind {machine}")
    flags = _NEW_NAMESPACES | signal.SIGCHLD
    # PyDLL keeps the interpreter's lock over the call: the child wakes up as its owner
    child = int(ctypes.PyDLL(None, use_errno=True).syscall(_CLONE[machine], flags, 0, 0, 0, 0))
    _check(child, "clone into new namespaces")
    return child


def _run_first(
    limits: CellLimits,
    keep: dict[int, int],
    work: Callable[[], int],
    report: int,
    owner: tuple[int, int],
    alone: bool,
) -> None:
    """Process 1 of the cell: mounts, then the program, then its exit code."""
    try:
        with contextlib.suppress(OSError):  # when memory runs out, the program goes before its harness
            _write("/proc/self/oom_score_adj", "1000")
        if limits.isolated and not limits.trusted:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{owner[0]} {owner[0]} 1")
            _write("/proc/self/gid_map", f"{owner[1]} {owner[1]} 1")
            _mount_private(limits)
            _drop_capabilities()
            install(limits.grouped)
        elif not limits.isolated:
            become_subreaper()
        os.write(report, READY)
        _move_descriptors(keep)  # closes the report too
        program = 0 if alone else os.fork()
        if program == 0:
            _run_program(limits, work)
        for descriptor in keep.values():
            os.close(descriptor)
        while True:
            try:
                child, status = os.wait()
            except InterruptedError:
                continue
            if child == program:
                os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    except BaseException as error:  # noqa: BLE001 - told to the zygote, which raises it
        with contextlib.suppress(OSError):
            os.write(report, f"{error}".encode())
        os._exit(125)


def _run_program(limits: CellLimits, work: Callable[[], int]) -> None:
    code = 1
    try:
        os.setsid()
        _apply_limits(limits)
        os.chdir(limits.folder)
        code = work()
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does: a traceback and exit code 1
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code & 0xFF)


def _mount_private(limits: CellLimits) -> None:
    options = f"size={limits.temporary_megabytes}m,nr_inodes=20000,mode=1777".encode()
    flags = _MS_NOSUID | _MS_NODEV
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount(/)")
    # its own processes alone: neither those of the sandbox nor /proc/sys nor any other file about the machine; and
    # nothing is written there, for a process could take back that it goes first when memory runs out
    proc_flags = flags | _MS_NOEXEC | _MS_RDONLY
    _check(_libc.mount(b"proc", b"/proc", b"proc", proc_flags, b"subset=pid"), "mount(/proc)")
    _check(_libc.mount(b"tmpfs", b"/tmp", b"tmpfs", flags, options), "mount(/tmp)")
    _check(_libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", flags, options), "mount(/dev/shm)")


def _move_descriptors(keep: dict[int, int]) -> None:
    """Renumber descriptors without clobbering one that is still to be moved, and close all others."""
    high = {os.dup2(source, 500 + n, inheritable=True): target for n, (source, target) in enumerate(keep.items())}
    for source, target in high.items():
        os.dup2(source, target, inheritable=True)
    kept = sorted(keep.values())
    if kept != list(range(len(kept))):
        raise ValueError(f"descriptors of a cell must be 0, 1, 2, ...: {kept}")
    os.closerange(len(kept), os.sysconf("SC_OPEN_MAX"))


def _apply_limits(limits: CellLimits) -> None:
    seconds = int(limits.cpu_seconds) + 2  # the supervisor counts all processes and is first; this is for one alone
    megabyte = 1 << 20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_megabytes * megabyte,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if limits.address_megabytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits.address_megabytes * megabyte,) * 2)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (1024, 1024))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    _check(_libc.capset(header, nothing), "capset")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(f"{call}: {os.strerror(ctypes.get_errno())}")
