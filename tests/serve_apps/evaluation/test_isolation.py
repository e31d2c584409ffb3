"""Where nothing isolates: a refusal, or the user's own word that programs may run without."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serve_apps.sandbox.control_groups import make_group
from serve_apps.sandbox.inside.syscalls import ALLOWED, filter_program
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.sandbox import UNSAFE_FLAG, Limits, Sandbox, Tests, bubblewrap
from tests.patience import PATIENCE
from tests.serve_apps.evaluation.evil_programs import MARK
from tests.serve_apps.evaluation.test_evil_programs import marked_processes

WITHOUT_NAMESPACES = """
from serve_apps.sandbox.sandbox import Sandbox
from starloom.errors import UserError
try:
    Sandbox().__enter__()
except UserError as error:
    print(error)
"""


def test_system_without_user_namespaces_refuses_in_one_line() -> None:
    words = [str(bubblewrap()), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]
    found = subprocess.run(
        [*words, sys.executable, "-c", WITHOUT_NAMESPACES], capture_output=True, text=True, timeout=PATIENCE
    )
    assert found.stdout.startswith("model-written programs are not run without isolation"), found
    assert UNSAFE_FLAG in found.stdout
    assert len(found.stdout.splitlines()) == 1


@pytest.fixture
def unsafe() -> Sandbox:
    return Sandbox(Limits(cpu_seconds=1.0), isolated=False)


def test_without_isolation_verdicts_are_the_same(unsafe: Sandbox) -> None:
    with unsafe as opened:
        assert opened.run_python("print(1)").stdout == "1\n"
        assert opened.run_python("raise SystemExit(3)").exit_code == 3
        assert opened.run_python("while True: pass").status == "timeout"
        tests = Tests("", "assert add(1, 2) == 3", ("add",))
        assert opened.judge_python("def add(a, b): return a + b", tests).passed
        assert opened.judge_python("import os; os._exit(0)", tests).status == "failed"


def test_without_isolation_daemons_and_files_go_all_the_same(unsafe: Sandbox) -> None:
    source = f"import subprocess\nopen('left', 'w')\nsubprocess.Popen(['sleep', '{MARK}'], start_new_session=True)"
    before = set(Path(tempfile.gettempdir()).glob("program-*"))
    with unsafe as opened:
        assert opened.run_python(source).status == "passed"
        assert descendants(opened.process_id) == {}
    assert marked_processes() == []
    assert set(Path(tempfile.gettempdir()).glob("program-*")) <= before


# on x86-64 and on 64-bit ARM
FORBIDDEN = {"unshare": (272, 97), "mount": (165, 40), "bpf": (321, 280), "io_uring_setup": (425, 425),
             "ptrace": (101, 117), "keyctl": (250, 219), "shmget": (29, 194), "userfaultfd": (323, 282)}  # fmt: skip


def test_a_program_may_make_the_calls_of_the_list_and_no_others() -> None:
    assert filter_program() is not None
    assert not {call[0] for call in ALLOWED} & set(FORBIDDEN)
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    numbers = [call[column] for call in FORBIDDEN.values()]
    source = f"import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nfor n in {numbers}:\n"
    source += "    print(l.syscall(n, 0, 0, 0, 0, 0), ctypes.get_errno())"
    with Sandbox() as opened:
        verdict = opened.run_python(source)
        assert verdict.stdout == "-1 1\n" * len(numbers)
        seccomp = opened.run_python(
            "print([l for l in open('/proc/self/status') if l.startswith(('Seccomp:', 'NoNew'))])"
        )
    assert "Seccomp:\\t2" in seccomp.stdout
    assert "NoNewPrivs:\\t1" in seccomp.stdout


def test_control_group_is_there_or_not_and_goes_with_the_sandbox() -> None:
    group = make_group()
    if not group.folders:
        pytest.skip("no control group can be made here")
    assert all(folder.is_dir() for folder in group.folders)
    left = [folder.parent / "starloom-999999999-0" for folder in group.folders]  # of a process that was killed
    for folder in left:
        folder.mkdir(exist_ok=True)
    make_group().remove()
    assert not any(folder.exists() for folder in left)
    group.remove()
    assert not any(folder.exists() for folder in group.folders)
    with Sandbox(Limits(memory_megabytes=200, limit_addresses=False)) as opened:
        eater = "x = []\nwhile True: x.append(bytearray(b'y' * (1 << 24)))"
        assert opened.run_python(eater).status == "memory"
        assert opened.run_python("print(1)").stdout == "1\n"
