"""The packages meet only in artifacts: who may import whom, and what a config module may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "starloom": ROOT / "platform" / "starloom",
    "data_jobs": ROOT / "data_jobs",
    "train_jobs": ROOT / "train_jobs",
    "serve_apps": ROOT / "serve_apps",
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_itself_and_starloom(package: str) -> None:
    foreign = set(PACKAGES) - {package, "starloom"}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGES[package].rglob("*.py")
        for name in imported(path)
        if name in foreign
    }
    assert not wrong


def step_modules() -> list[str]:
    folders = [(name, folder) for name, folder in PACKAGES.items() if name != "starloom"]
    found = [
        f"{package}.{path.stem}"
        for package, folder in folders
        for path in sorted(folder.glob("*.py"))
        if "\nSTEP = " in path.read_text()
    ]
    return [*found, "starloom.report"]


def test_every_step_module_is_found() -> None:
    assert {"data_jobs.collect", "data_jobs.pack", "train_jobs.pretrain", "starloom.report"} <= set(step_modules())


def test_config_modules_import_neither_torch_nor_ray() -> None:
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = sorted({'torch', 'ray', 'deepspeed', 'transformers'} & set(sys.modules))\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    modules = [*step_modules(), "starloom.cli", "starloom.recipe", "starloom.runner"]
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_platform_stays_a_plain_folder() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
