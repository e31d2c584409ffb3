"""Programs that attack their sandbox. One that gets what it wants prints ESCAPED, or leaves a trace."""

from dataclasses import dataclass

MARK = "987654321"  # in the command line of every process that tries to stay


@dataclass(frozen=True)
class Attack:
    """A program and how it may end; `{secret}`, `{port}`, `{socket}` and `{parent}` are filled in by the suite."""

    name: str
    source: str
    ends: tuple[str, ...]


ANY = ("passed", "failed", "timeout", "memory")
STOPPED = ("failed", "timeout", "memory")

ATTACKS = (
    Attack("fork bomb", "import os\nwhile True:\n    os.fork()", STOPPED),
    Attack(
        "fork bomb that ignores errors",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        STOPPED,
    ),
    Attack(
        "thread bomb",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
        STOPPED,
    ),
    Attack("memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 24))", STOPPED),
    Attack(
        "memory bomb in many processes",
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(300 << 20)\n"
        "        x[::4096] = b'y' * len(x[::4096])\n        time.sleep(99)\ntime.sleep(99)",
        STOPPED,
    ),
    Attack(
        "disk filler",
        "n = 0\nwhile True:\n    n += 1\n    with open(f'f{n}', 'wb') as f:\n"
        "        for _ in range(31): f.write(b'x' * (1 << 20))",
        STOPPED,
    ),
    Attack("one endless file", "f = open('f', 'wb')\nwhile True: f.write(b'x' * (1 << 20))", STOPPED),
    Attack("inode filler", "n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').close()", STOPPED),
    Attack(
        "shared memory filler",
        "f = open('/dev/shm/f', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()",
        STOPPED,
    ),
    Attack("endless output", "while True: print('x' * 10000)", STOPPED),
    Attack(
        "endless output on both streams",
        "import sys\nwhile True: sys.stderr.write('y' * 65536); sys.stdout.write('x' * 65536)",
        STOPPED,
    ),
    Attack(
        "ignored signals",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        STOPPED,
    ),
    Attack(
        "double-forked daemon",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)",
        ANY,
    ),
    Attack(
        "daemon that holds the outputs open",
        "import subprocess\n"
        f"subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; sleep {MARK}'], start_new_session=True)",
        ANY,
    ),
    Attack(
        "child with closed outputs",
        "import subprocess\nn = subprocess.DEVNULL\n"
        f"subprocess.Popen(['sleep', '{MARK}'], stdin=n, stdout=n, stderr=n, start_new_session=True)",
        ANY,
    ),
    Attack(
        "read the parent's files and environment",
        "import glob, os\ntexts = []\nfor p in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/mem'):\n"
        "    try: texts.append(open(p, 'rb').read(1 << 16))\n    except OSError: pass\n"
        "if any(b'starloom-canary' in t for t in texts): print('ESCAPED')\n"
        "for p in glob.glob('/proc/[0-9]*/root/') + glob.glob('/proc/[0-9]*/cwd/'):\n"
        "    if os.path.exists(p + '{secret}'): print('ESCAPED')",
        ANY,
    ),
    Attack("read a file of the host", "print(open('{secret}').read(), 'ESCAPED')", ("failed",)),
    Attack(
        "read what only root may",
        "import os\nfor place, _, files in os.walk('/etc'):\n    for f in files:\n"
        "        path = os.path.join(place, f)\n"
        "        if not os.path.exists(path): continue\n"
        "        if 'shadow' in f or '/ssh' in place or os.stat(path).st_mode & 0o077 == 0: print('ESCAPED', path)",
        ANY,
    ),
    Attack(
        "read home folders",
        "import os\nfor folder in ('/root', '/home'):\n    for place, _, files in os.walk(folder):\n"
        "        if '.ssh' in place or '.aws' in place or any(f.startswith('.bash') for f in files):\n"
        "            print('ESCAPED', place)",
        ANY,
    ),
    Attack(
        "reach a local port",
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nprint('ESCAPED')",
        ("failed",),
    ),
    Attack(
        "reach the world", "import socket\nsocket.create_connection(('1.1.1.1', 53), 2)\nprint('ESCAPED')", ("failed",)
    ),
    Attack(
        "reach an abstract socket",
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0{socket}')\nprint('ESCAPED')",
        ("failed",),
    ),
    Attack(
        "write outside its folder",
        "import os\nfor folder in ('/', '/usr', '/usr/bin', '/etc', '/opt', '/var', '/run', '/run/starloom', '/dev',\n"
        "               os.path.dirname(os.__file__), '/sys', '/proc/sys/kernel', '/root', '/home'):\n"
        "    try:\n        open(folder + '/starloom-evil', 'w').write('x')\n        print('ESCAPED', folder)\n"
        "    except OSError: pass\n"
        "for name in ('/run/starloom/zygote.py', '/etc/hosts', os.__file__):\n"
        "    try:\n        open(name, 'a').write('x')\n        print('ESCAPED', name)\n    except OSError: pass",
        ANY,
    ),
    Attack(
        "kill its parents",
        "import os, signal\nfor p in [os.getppid(), *range(1, 400)]:\n    if p != os.getpid():\n"
        "        try: os.kill(p, signal.SIGKILL)\n        except OSError: pass\nos.kill(-1, 9)",
        ANY,
    ),
    Attack(
        "symbolic links out of /tmp",
        "import os\nos.symlink('{secret}', 'a')\nos.symlink('/proc/1/root{secret}', 'b')\n"
        "os.symlink('/proc/self/root{secret}', 'c')\nos.symlink('../../../../../{secret}', 'd')\n"
        "for n in 'abcd':\n    try: print(open(n).read(), 'ESCAPED')\n    except OSError: pass",
        ANY,
    ),
    Attack(
        "hold descriptors of the harness",
        "import os\nfor fd in range(3, 1024):\n    try: os.fstat(fd)\n    except OSError: continue\n"
        "    if fd > 3: print('ESCAPED', fd)",
        ANY,
    ),
    Attack(
        "mount, chroot and name spaces",
        "import ctypes, os\nl = ctypes.CDLL(None)\nok = [l.mount(b'none', b'/usr', b'tmpfs', 0, None),\n"
        "      l.mount(b'none', b'/', None, 32 | 4096, None), l.umount2(b'/tmp', 2), l.umount2(b'/proc', 2)]\n"
        "try: os.chroot('/tmp'); ok.append(0)\nexcept OSError: pass\n"
        "if 0 in ok: print('ESCAPED', ok)\n"
        "if l.unshare(0x10000000 | 0x00020000) == 0:\n"
        "    if l.mount(b'none', b'/', None, 32 | 4096, None) == 0 and os.access('/usr', os.W_OK): print('ESCAPED')",
        ANY,
    ),
    Attack(
        "trace another process",
        "import ctypes, os\nl = ctypes.CDLL(None)\nfor p in range(1, 300):\n"
        "    if p != os.getpid() and l.ptrace(16, p, 0, 0) == 0: print('ESCAPED', p)",
        ANY,
    ),
    Attack(
        "kernel interfaces",
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n\n"
        "calls = ((321, (5, 0, 0)), (425, (8, 0)), (298, (0, 0, 0)),\n"
        "         (175, (0, 0, 0)), (246, (0, 0, 0)), (250, (0, 0, 0)), (323, (0,)), (169, (0, 0, 0)))\n"
        "for n, a in calls:\n"
        "    if l.syscall(n, *a) >= 0: print('ESCAPED', n)",
        ANY,
    ),
    Attack("sleep past the limit", "import time\ntime.sleep(1000)", ("timeout",)),
    Attack("wait on stdin", "print(repr(input()))", ("failed",)),
    Attack("deep recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)", STOPPED),
    Attack("stack smash", "import ctypes\nctypes.memset(0, 1, 1)", STOPPED),
    Attack("busy in many processes", "import os\nfor _ in range(4): os.fork()\nwhile True: pass", STOPPED),
    Attack("huge number", "print(len(str(10 ** 10 ** 9)))", STOPPED),
    Attack(
        "deep folders",
        "import os\nwhile True:\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)",
        STOPPED,
    ),
    Attack("stop itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", ("timeout",)),
    Attack(
        "core dump and suid",
        "import os, subprocess\nopen('x', 'w').write('#!/bin/sh\\nid -u')\nos.chmod('x', 0o4755)\n"
        "if subprocess.run(['./x'], capture_output=True, text=True).stdout.strip() == '0': print('ESCAPED')\n"
        "r = subprocess.run(['su', '-c', 'id'], stdin=subprocess.DEVNULL, capture_output=True)\n"
        "if r.returncode == 0: print('ESCAPED')\nos.abort()",
        STOPPED,
    ),
    Attack(
        "set the kernel",
        "import os\nfor place, _, files in os.walk('/proc'):\n    for f in files:\n"
        "        path = os.path.join(place, f)\n"
        "        if not path.split('/')[2].isdigit() and 'self' not in path.split('/')[2]: print('ESCAPED', path)\n"
        "for f in ('kernel/core_pattern', 'vm/swappiness', 'net/ipv4/ip_forward', 'kernel/ns_last_pid'):\n"
        "    for base in ('/proc/sys/', '/proc/1/root/proc/sys/', '/sys/'):\n"
        "        try: os.close(os.open(base + f, os.O_WRONLY)); print('ESCAPED', base + f)\n"
        "        except OSError: pass\n"
        "for path in ('/proc/sysrq-trigger', '/proc/kcore', '/proc/kmsg', '/proc/keys', '/sys/fs/cgroup'):\n"
        "    if os.path.exists(path): print('ESCAPED', path)",
        ANY,
    ),
    Attack(
        "offer its harness to the memory killer and fill memory that is no process's",
        "import os, time\nfor p in range(1, 60):\n    try: open(f'/proc/{p}/oom_score_adj', 'w').write('1000')\n"
        "    except OSError: pass\nfds = []\nwhile True:\n    fds.append(os.memfd_create('x'))\n"
        "    for _ in range(31): os.write(fds[-1], b'x' * (1 << 20))",
        STOPPED,
    ),
    Attack(
        "take back that it goes first when memory runs out, and grow small while memory fills",
        "import ctypes, mmap, os\ntry: open('/proc/self/oom_score_adj', 'w').write('0'); print('ESCAPED')\n"
        "except OSError: pass\nl = ctypes.CDLL(None)\nwhile True:\n    fd = os.memfd_create('x')\n"
        "    for _ in range(31): os.write(fd, b'x' * (1 << 20))",
        STOPPED,
    ),
    Attack(
        "shared memory that only the dead have touched",
        "import mmap, os, time\nheld = []\nfor _ in range(30):\n    if os.fork() == 0:\n"
        "        m = mmap.mmap(-1, 100 << 20)\n        if os.fork() == 0:\n"
        "            for n in range(0, len(m), 4096): m[n] = 1\n            os._exit(0)\n"
        "        os.wait()\n        time.sleep(2.5)\n        os._exit(0)\n"
        "while True:\n    try: os.wait()\n    except ChildProcessError: break",
        STOPPED,
    ),
    Attack(
        "memory in sockets",
        "import os, socket, time\nfor _ in range(20):\n    if os.fork() == 0:\n        held = []\n        try:\n"
        "            while True:\n                a, b = socket.socketpair()\n                a.setblocking(False)\n"
        "                held += [a, b]\n                try:\n                    while True: a.send(b'x' * 65536)\n"
        "                except BlockingIOError: pass\n        except OSError: pass\n        time.sleep(9)\n"
        "time.sleep(9)",
        STOPPED,
    ),
    Attack(
        "segments and queues of System V",
        "import ctypes\nl = ctypes.CDLL(None)\nif l.shmget(0, 1 << 20, 0o1600) >= 0: print('ESCAPED shm')\n"
        "if l.msgget(0, 0o1600) >= 0: print('ESCAPED msg')",
        ANY,
    ),
    Attack(
        "burn time in children that nobody waits for",
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(8):\n"
        "    if os.fork() == 0:\n        while time.process_time() < 0.3: pass\n        os._exit(0)\n"
        "    try: os.wait()\n    except ChildProcessError: pass",
        STOPPED,
    ),
    Attack(
        "burn time in many short children that nobody waits for",
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "for _ in range(150):\n    if os.fork() == 0:\n        until = time.process_time() + 0.02\n"
        "        while time.process_time() < until: pass\n        os._exit(0)\n"
        "    try: os.wait()\n    except ChildProcessError: pass",
        STOPPED,
    ),
    Attack(
        "burn time in orphans",
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        if os.fork() == 0:\n"
        "            while time.process_time() < 0.3: pass\n        os._exit(0)\n    os.wait()\n    time.sleep(0.31)",
        STOPPED,
    ),
    Attack(
        "sockets of other families",
        "import socket\nfor family in range(0, 64):\n    if family in (1, 2, 10): continue\n"
        "    for kind in (1, 2, 3, 5):\n        try: socket.socket(family, kind); print('ESCAPED', family, kind)\n"
        "        except OSError: pass",
        ANY,
    ),
    Attack(
        "calls by the machine's other numbers",
        "import ctypes, mmap, os\nl = ctypes.CDLL(None)\nif l.syscall(0x40000000 + 39) > 0: print('ESCAPED x32')\n"
        "pid = os.fork()\nif pid == 0:\n    m = mmap.mmap(-1, 4096, prot=7)\n"
        "    m.write(bytes.fromhex('b814000000cd80c3'))\n"
        "    f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "    os._exit(0 if f() > 0 else 1)\n"
        "if os.waitpid(pid, 0)[1] == 0: print('ESCAPED int 80')",
        ANY,
    ),
    Attack(
        "look for the last program in its own memory",
        "import re\nfound = []\nwith open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:\n"
        "    for line in maps:\n        low, high = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "        if 'r' not in line.split()[1] or '[v' in line: continue\n        memory.seek(low)\n"
        "        try: text = memory.read(high - low)\n        except (OSError, ValueError): continue\n"
        "        found += re.findall(b'last' + b'-program-[a-z]+', text)\nif found: print('ESCAPED', found)",
        ANY,
    ),
    Attack(
        "hide its mappings",
        "import ctypes\nif ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0: print('ESCAPED')",
        ANY,
    ),
    Attack(
        "terminals",
        "import os\ntry: os.openpty(); print('ESCAPED')\nexcept OSError: pass",
        ANY,
    ),
    Attack(
        "set the clock",
        "import time\ntry: time.clock_settime(time.CLOCK_REALTIME, 0); print('ESCAPED')\nexcept OSError: pass",
        ANY,
    ),
    Attack(
        "run before all others",
        "import os\nfor policy in (os.SCHED_FIFO, os.SCHED_RR):\n"
        "    try: os.sched_setscheduler(0, policy, os.sched_param(1)); print('ESCAPED')\n    except OSError: pass\n"
        "try: os.setpriority(os.PRIO_PROCESS, 0, -5); print('ESCAPED')\nexcept OSError: pass",
        ANY,
    ),
    Attack(
        "become another user",
        "import os\nfor uid in (0, 1, 65534):\n    try: os.setuid(uid); print('ESCAPED')\n    except OSError: pass",
        ANY,
    ),
)

# what tests a function `add(a, b)` may never be made to accept by a program that does not add
FORGERIES = (
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "import os\ndef add(a, b): os._exit(0)",
    "def add(a, b):\n    raise SystemExit(0)",
    "class Yes:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
    "def add(a, b): return Yes()",
    "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef add(a, b): return Yes(5)",
    "class Yes(list):\n    def __eq__(self, other): return True\ndef add(a, b): return Yes()",
    "def add(a, b):\n    import sys\n    f = sys._getframe()\n    while f:\n        f.f_globals['passed'] = True\n"
    "        f.f_globals['add'] = lambda a, b: a + b\n        f = f.f_back\n    return 4",
    'import os\nos.write(3, b\'\\x0e\\x00\\x00\\x00["passed", ""]\')\ndef add(a, b): return 0',
    'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'R{"status": "passed", "detail": ""}\')\n'
    "    except OSError: pass\nos._exit(0)",
    'def add(a, b):\n    print(\'{"status": "passed"}\')\n    return 7',
    "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.exec = print\nbuiltins.compile = print\n"
    "def add(a, b): return 9",
    "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'tests' in o:\n"
    "            return eval(o['tests'].split('==')[1])\n    return 0",
    "import ctypes, os\nlibc = ctypes.CDLL(None)\nfor p in range(1, 400): libc.ptrace(16, p, 0, 0)\n"
    "def add(a, b): return None",
    "import socket, json\ns = socket.socket(fileno=3)\n"
    "for m in (['ready'], ['returned', ['r', 0]], ['returned', True]):\n"
    "    b = json.dumps(m).encode(); s.sendall(len(b).to_bytes(4, 'little') + b)\n",
    "import socket\ns = socket.socket(fileno=3)\ns.sendall(b'\\xff\\xff\\xff\\x7f' + b'[' * 100000)",
    "import socket\ns = socket.socket(fileno=3)\nb = b'[' * 100000 + b']' * 100000\n"
    "s.sendall(len(b).to_bytes(4, 'little') + b)",
    "import json\njson.loads = lambda *a, **k: ['passed', '']\njson.dumps = lambda *a, **k: '[\"passed\", \"\"]'\n"
    "def add(a, b): return 1",
    "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): return 1",
    "import os\nif os.fork(): os._exit(0)\ndef add(a, b): return 11",
    "def add(a, b):\n    raise AssertionError('passed')",
    "def add(a, b):\n    return add",
)
