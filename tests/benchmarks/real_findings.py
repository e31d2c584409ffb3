"""Personal data and secrets in eight well-known packages of eight languages, each finding labelled by hand.

    python -m tests.benchmarks.real_findings

The label file has the place and the kind of each finding, and whether it was right; no text. A finding that has no
label counts as wrong.
"""

import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_jobs.languages import load_languages
from data_jobs.personal_data.redaction import find_all
from starloom.errors import RunError
from tests.benchmarks.harness import BENCH

LABELS = Path(__file__).with_name("real_findings.tsv")
FOLDER = BENCH / "real"


@dataclass(frozen=True)
class Package:
    """A package of a registry and the version that was labelled."""

    registry: str  # apt, npm or pip
    name: str
    version: str
    language: str


PACKAGES = (
    Package("pip", "django", "5.2.8", "Python"),
    Package("npm", "node-forge", "1.3.1", "JavaScript"),
    Package("npm", "twilio", "5.10.4", "TypeScript"),
    Package("apt", "golang-golang-x-crypto-dev", "1:0.4.0-1", "Go"),
    Package("apt", "php-phpseclib3", "3.0.19-1+deb12u6", "PHP"),
    Package("apt", "librust-openssl-dev", "0.10.45-1", "Rust"),
    Package("apt", "libmojolicious-perl", "9.31+dfsg-1", "Perl"),
    Package("apt", "ruby-net-ssh", "1:7.0.1-1", "Ruby"),
)


@dataclass(frozen=True)
class Found:
    """Where something was found."""

    package: str
    path: str
    line: int
    kind: str


def fetched_package(package: Package) -> Path:
    """The folder with the package's files.

    Raises:
        RunError: the registry does not give this version.
    """
    folder = FOLDER / package.name
    if (folder / ".complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(package, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunError(f"{package.name} {package.version}: cannot be fetched ({error})") from error
    (folder / ".complete").touch()
    return folder


def _fetch(package: Package, folder: Path) -> None:
    def call(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    wanted = f"{package.name}{'==' if package.registry == 'pip' else '@'}{package.version}"
    if package.registry == "pip":
        call(sys.executable, "-m", "pip", "download", "-q", "--no-deps", wanted)
        for wheel in sorted(folder.glob("*.whl")):
            call(sys.executable, "-m", "zipfile", "-e", str(wheel), ".")
            wheel.unlink()
    elif package.registry == "npm":
        call("npm", "pack", "-s", wanted)
        for archive in sorted(folder.glob("*.tgz")):
            call("tar", "-xzf", str(archive))
            archive.unlink()
    else:
        call("apt-get", "download", "-qq", f"{package.name}={package.version}")
        for archive in sorted(folder.glob("*.deb")):
            call("dpkg-deb", "-x", str(archive), ".")
            archive.unlink()


def findings(package: Package) -> Iterator[Found]:
    """What the detectors find in the files that curation would take."""
    languages = load_languages()
    folder = fetched_package(package)
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(base, name)
            if path.is_symlink() or path.stat().st_size > 1 << 20:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if languages.of(name, text):
                relative = str(path.relative_to(folder))
                for found in find_all(text):
                    yield Found(package.name, relative, text.count("\n", 0, found.start) + 1, found.kind)


def real_precision() -> dict[str, tuple[int, int]]:
    """(right, found) by kind of finding, over all packages."""
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not row[0].startswith("#")]
    labels = {Found(package, path, int(line), kind): right == "right" for package, path, line, kind, right in rows}
    right: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for package in PACKAGES:
        for found in findings(package):
            count[found.kind] += 1
            if labels.get(found, False):
                right[found.kind] += 1
            else:
                print(f"wrong or not labelled: {found}", flush=True)
    return {kind: (right[kind], count[kind]) for kind in sorted(count)}


if __name__ == "__main__":
    for kind, (right, found) in real_precision().items():
        print(f"{kind}: {right} of {found} right")
