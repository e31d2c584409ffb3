"""A seccomp filter without a library: the system calls that programs may make; every other one ends with EPERM.

An allow-list: a call that a later kernel brings ends with ENOSYS, as on a kernel without it. What the calls left out
could reach is fenced by namespaces and missing capabilities already; this keeps programs away from the parts of the
kernel where such fences have had holes. Runs inside the sandbox, on the standard library alone.
"""

import ctypes
import os
import struct
from functools import cache
from typing import Any

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
CALL_NUMBERS = {"x86_64": (_X86_64, 1), "aarch64": (_AARCH64, 2)}
# name, its number on x86-64, its number on 64-bit ARM (- where there is none)
_CALLS = """
    # files
    read:0:63 write:1:64 open:2:- close:3:57 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291
    lseek:8:62 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70 preadv2:327:286
    pwritev2:328:287 access:21:- faccessat:269:48 faccessat2:439:439 openat:257:56 openat2:437:437 creat:85:-
    dup:32:23 dup2:33:- dup3:292:24 fcntl:72:25 flock:73:32 fsync:74:82 fdatasync:75:83 sync_file_range:277:84
    truncate:76:45 ftruncate:77:46 fallocate:285:47 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49
    fchdir:81:50 rename:82:- renameat:264:38 renameat2:316:276 mkdir:83:- mkdirat:258:34 rmdir:84:- link:86:-
    linkat:265:37 unlink:87:- unlinkat:263:35 symlink:88:- symlinkat:266:36 readlink:89:- readlinkat:267:78
    chmod:90:- fchmod:91:52 fchmodat:268:53 chown:92:- fchown:93:55 lchown:94:- fchownat:260:54 umask:95:166
    utime:132:- utimes:235:- utimensat:280:88 futimesat:261:- statfs:137:43 fstatfs:138:44 getxattr:191:8
    lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12 flistxattr:196:13 setxattr:188:5
    lsetxattr:189:6 fsetxattr:190:7 removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 mknod:133:-
    mknodat:259:33 sendfile:40:71 splice:275:76 tee:276:77 vmsplice:278:75 copy_file_range:326:285 readahead:187:213
    fadvise64:221:223 close_range:436:436 memfd_create:319:279 ioctl:16:29 inotify_init:253:- inotify_init1:294:26
    inotify_add_watch:254:27 inotify_rm_watch:255:28 sync:162:81 syncfs:306:267
    # memory
    mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 msync:26:227 mincore:27:232 madvise:28:233
    mlock:149:228 mlock2:325:284 munlock:150:229 mlockall:151:230 munlockall:152:231 membarrier:324:283
    get_mempolicy:239:236 set_mempolicy:238:237 mbind:237:235 pkey_alloc:330:289 pkey_free:331:290
    pkey_mprotect:329:288 process_madvise:440:440
    # processes
    clone:56:220 fork:57:- vfork:58:- execve:59:221 execveat:322:281 exit:60:93 exit_group:231:94 wait4:61:260
    waitid:247:95 getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176
    getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 setuid:105:146 setgid:106:144
    setreuid:113:145 setregid:114:143 setresuid:117:147 setresgid:119:149 setgroups:116:159 setfsuid:122:151
    setfsgid:123:152 getpgid:121:155 setpgid:109:154 getpgrp:111:- getsid:124:156 setsid:112:157 capget:125:90
    capset:126:91 prctl:157:167 arch_prctl:158:- set_tid_address:218:96 set_robust_list:273:99
    get_robust_list:274:100 rseq:334:293 futex:202:98 futex_waitv:449:449 getrlimit:97:163 setrlimit:160:164
    prlimit64:302:261 getrusage:98:165 times:100:153 uname:63:160 sysinfo:99:179 personality:135:92 getcpu:309:168
    sched_yield:24:124 sched_getaffinity:204:123 sched_setaffinity:203:122 sched_getparam:143:121
    sched_setparam:142:118 sched_getscheduler:145:120 sched_setscheduler:144:119 sched_get_priority_max:146:125
    sched_get_priority_min:147:126 sched_rr_get_interval:148:127 sched_getattr:315:275 sched_setattr:314:274
    getpriority:140:141 setpriority:141:140 ioprio_get:252:31 ioprio_set:251:30 seccomp:317:277
    landlock_create_ruleset:444:444 landlock_add_rule:445:445 landlock_restrict_self:446:446 pidfd_open:434:434
    pidfd_send_signal:424:424 set_thread_area:205:- get_thread_area:211:- getrandom:318:278
    # signals
    rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
    rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 rt_sigsuspend:130:133 sigaltstack:131:132 kill:62:129
    tkill:200:130 tgkill:234:131 pause:34:- restart_syscall:219:128 signalfd:282:- signalfd4:289:74
    # time
    nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169
    time:201:- alarm:37:- getitimer:36:102 setitimer:38:103 timer_create:222:107 timer_settime:223:110
    timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111 timerfd_create:283:85 timerfd_settime:286:86
    timerfd_gettime:287:87
    # waiting
    poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
    epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 pipe:22:- pipe2:293:59 eventfd:284:- eventfd2:290:19
    # sockets
    socket:41:198 socketpair:53:199 bind:49:200 listen:50:201 accept:43:202 accept4:288:242 connect:42:203
    getsockname:51:204 getpeername:52:205 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
    sendmmsg:307:269 recvmmsg:299:243 shutdown:48:210 getsockopt:55:209 setsockopt:54:208
    # semaphores
    semget:64:190 semop:65:193 semctl:66:191 semtimedop:220:192"""
ALLOWED = tuple(tuple(word.split(":")) for line in _CALLS.splitlines() if "#" not in line for word in line.split())
NEWEST = 450  # the last call that the list was made with; what is later is not there
# calls that are allowed with some arguments only
_CLONE3 = 435  # its flags are out of sight: libraries fall back to clone
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: in the sandbox's own network namespace, which reaches nothing
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
_PR_SET_DUMPABLE = 4  # without it a program could hide its mappings from the supervisor's account
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = _ERROR | 1, _ERROR | 38, _ERROR | 97
_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in what the kernel hands to the filter
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def numbers(machine: str) -> dict[str, int]:
    """The number of each allowed call on a machine; `KeyError` for a machine that is not known."""
    column = CALL_NUMBERS[machine][1]
    return {call[0]: int(call[column]) for call in ALLOWED if call[column] != "-"}


def _instruction(code: int, operand: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, operand)


def _return(answer: int) -> bytes:
    return _instruction(_RETURN, answer)


def _with_argument(number: int, allowed: tuple[int, ...], otherwise: int) -> list[bytes]:
    """The call `number` with one of `allowed` as its first argument; with another one it is answered `otherwise`."""
    tests = [_instruction(_EQUAL, value, len(allowed) - n) for n, value in enumerate(allowed)]
    body = [_instruction(_LOAD, _FIRST_ARGUMENT), *tests, _return(otherwise), _return(_ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _without_argument(number: int, test: int, value: int) -> list[bytes]:
    """The call `number` unless `test` holds for its first argument."""
    body = [_instruction(_LOAD, _FIRST_ARGUMENT), _instruction(test, value, 0, 1), _return(_EPERM), _return(_ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _ranges(wanted: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(wanted):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


@cache
def filter_program(anonymous_files: bool = True) -> bytes | None:
    """The filter as the kernel's instructions for this machine; None where the call numbers are not known.

    Without `anonymous_files`, memfd_create is not there: what such files hold is in no process's account.
    """
    machine = os.uname().machine
    if machine not in CALL_NUMBERS:
        return None
    known = numbers(machine)
    plain = set(known.values())
    if not anonymous_files:
        plain.discard(known["memfd_create"])
    lines = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, CALL_NUMBERS[machine][0], 1, 0),
        _return(_KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, 0x40000000, 0, 1),  # the x32 calls
        _return(_EPERM),
        *_with_argument(known["socket"], _FAMILIES, _EAFNOSUPPORT),
        *_with_argument(known["socketpair"], _FAMILIES[:1], _EAFNOSUPPORT),
        *_with_argument(known["personality"], _PERSONALITIES, _EPERM),
        *_without_argument(known["clone"], _ANY_BIT, _NEW_NAMESPACES),
        *_without_argument(known["prctl"], _EQUAL, _PR_SET_DUMPABLE),
        _instruction(_EQUAL, _CLONE3, 0, 1),
        _return(_ENOSYS),
        _instruction(_ABOVE, NEWEST, 0, 1),
        _return(_ENOSYS),
    ]
    return b"".join([*lines, *_searched(_ranges(plain))])


def _searched(ranges: list[tuple[int, int]]) -> list[bytes]:
    """A binary search: the kernel tries the filter with every number when it takes it, and programs call it often."""
    if len(ranges) == 1:
        low, high = ranges[0]
        tests = [_instruction(_AT_LEAST, low, 0, 1), _instruction(_ABOVE, high, 0, 1)]
        return [*tests, _return(_EPERM), _return(_ALLOW)]
    middle = len(ranges) // 2
    left, right = _searched(ranges[:middle]), _searched(ranges[middle:])
    return [_instruction(_AT_LEAST, ranges[middle][0], len(left)), *left, *right]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


@cache
def _prepared(anonymous_files: bool) -> tuple[Any, Any, Any]:
    """The C library, and the filter as the kernel takes it; made once, before any program is forked."""
    instructions = filter_program(anonymous_files)
    if instructions is None:
        raise OSError(f"no filter of system calls is written for machines of the kind {os.uname().machine}")
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    described = _Program(len(instructions) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    return ctypes.CDLL(None, use_errno=True), described, buffer


def prepare() -> None:
    """Make the filters; `OSError` for a machine of a kind whose call numbers are not known."""
    _prepared(True)
    _prepared(False)


def install(anonymous_files: bool) -> None:
    """Put the filter on this process and all that come from it. Needs no_new_privs.

    Raises:
        OSError: the kernel refuses it, or the machine is of a kind whose call numbers are not known.
    """
    libc, described, _ = _prepared(anonymous_files)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0) < 0:
        raise OSError(f"prctl(PR_SET_SECCOMP): {os.strerror(ctypes.get_errno())}")
