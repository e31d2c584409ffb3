"""A seccomp filter without a library: calls that no tested program needs end with EPERM.

What they could reach is fenced by namespaces and missing capabilities already; this keeps programs away from the parts
of the kernel where such fences have had holes. Runs inside the sandbox, on the standard library alone.
"""

import ctypes
import os
import struct
from functools import cache

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_MACHINES = {"x86_64": (_X86_64, 0), "aarch64": (_AARCH64, 1)}
# the number of each call on x86-64 and on 64-bit ARM
DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_USER = 0x10000000
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


@cache
def filter_program() -> bytes | None:
    """The filter as the kernel's instructions for this machine; None where the call numbers are not known."""
    if os.uname().machine not in _MACHINES:
        return None
    architecture, column = _MACHINES[os.uname().machine]
    denied = sorted(numbers[column] for numbers in DENIED.values())
    # (code, operand, skip when true, skip when false); the last four are the answers
    body: list[tuple[int, int, str, str]] = [
        (_LOAD, 4, "", ""),
        (_EQUAL, architecture, "", "kill"),
        (_LOAD, 0, "", ""),
        (_AT_LEAST, 0x40000000, "eperm", ""),  # the x32 calls
        (_EQUAL, _CLONE3[column], "enosys", ""),  # its flags are out of sight; libraries fall back to clone
        *((_EQUAL, number, "eperm", "") for number in denied),
        (_EQUAL, _CLONE[column], "", "allow"),
        (_LOAD, 16, "", ""),
        (_ANY_BIT, _NEW_USER, "eperm", "allow"),
    ]
    answers = {"allow": _ALLOW, "eperm": _ERROR | _EPERM, "enosys": _ERROR | _ENOSYS, "kill": _KILL}
    places = {name: len(body) + n for n, name in enumerate(answers)}
    lines = []
    for at, (code, operand, true, false) in enumerate(body):
        skips = [places[name] - at - 1 if name else 0 for name in (true, false)]
        lines.append(struct.pack("HBBI", code, *skips, operand))
    return b"".join([*lines, *(struct.pack("HBBI", _RETURN, 0, 0, answer) for answer in answers.values())])


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install() -> None:
    """Put the filter on this process and all that come from it. Needs no_new_privs.

    Raises:
        OSError: the kernel refuses it.
    """
    instructions = filter_program()
    if instructions is None:
        return
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    described = _Program(len(instructions) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0) < 0:
        raise OSError(f"prctl(PR_SET_SECCOMP): {os.strerror(ctypes.get_errno())}")
