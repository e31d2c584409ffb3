"""Real code in many languages for the benchmarks: Debian's source packages, as Parquet shards in the corpus schema.

Fetched once with apt into .bench/code; a size is a prefix of one shuffled list of files, so that a smaller corpus is
a sample of a larger one.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from starloom.artifact import Artifact
from starloom.config import Config, added
from starloom.errors import RunError
from starloom.kinds import DROPPED_FILE
from starloom.schema import CORPUS, DROPPED
from starloom.step import Outcome, Step, StepContext, run_step
from tests.benchmarks.harness import BENCH

PACKAGES = ("linux-source-6.1", "golang-1.19-src", "rust-src", "openjdk-17-source")
LANGUAGES = {
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".hpp": "C++",
    ".S": "Assembly",
    ".go": "Go",
    ".rs": "Rust",
    ".java": "Java",
    ".py": "Python",
    ".sh": "Shell",
    ".rst": "reStructuredText",
    ".md": "Markdown",
    ".pl": "Perl",
    ".dts": "Device tree",
    ".dtsi": "Device tree",
    ".yaml": "YAML",
    ".js": "JavaScript",
    ".html": "HTML",
}
MAX_FILE_BYTES = 1 << 20


class CodeCorpusConfig(Config):
    """How much text, in shards of which size."""

    megabytes: float
    shard_megabytes: float = 8.0
    packages: tuple[str, ...] = PACKAGES
    by_repository: bool = added(False)  # rows of a repository beside each other, as sources give them


def fetched() -> Path:
    """The folder with the unpacked packages; `RunError` where apt is not to be had."""
    folder = BENCH / "code"
    for package in PACKAGES:
        if (folder / package / ".complete").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not list(folder.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
            (archive,) = folder.glob(f"{package}_*.deb")
            _unpack(archive, folder / package)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RunError(f"{package}: {error}; the benchmark's corpus comes from Debian's packages") from error
    return folder


def _unpack(archive: Path, target: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
    for inner in sorted(target.rglob("*.tar.xz")):
        subprocess.run(["tar", "-xJf", str(inner), "-C", str(inner.parent)], check=True)
        inner.unlink()
    for inner in sorted(target.rglob("src.zip")):
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(inner), str(inner.parent / "src")], check=True)
        inner.unlink()
    (target / ".complete").touch()


def _files(folder: Path) -> list[Path]:
    found = []
    for base, _, names in os.walk(folder):
        found += [Path(base, name) for name in names if Path(name).suffix in LANGUAGES]
    plain = [path for path in found if path.is_file() and not path.is_symlink()]
    return sorted(plain, key=lambda path: hashlib.blake2b(str(path.relative_to(folder)).encode()).digest())


def _rows(folder: Path, megabytes: float) -> Iterator[dict[str, object]]:
    taken = 0
    for path in _files(folder):
        content = path.read_bytes()
        if not content or len(content) > MAX_FILE_BYTES or b"\0" in content:
            continue
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        if taken > megabytes * 1e6:
            return
        taken += len(content)
        parts = path.relative_to(folder).parts
        yield {
            "id": hashlib.sha256(content).hexdigest(),
            "repo_name": f"{parts[0]}/{parts[5] if len(parts) > 6 else 'root'}",
            "path": "/".join(parts),
            "language": LANGUAGES[path.suffix],
            "licenses": [],
            "stars": 0,
            "commit": None,
            "source": parts[0],
            "kind": "file",
            "content": text,
        }


def _write(config: CodeCorpusConfig, context: StepContext) -> Outcome:
    folder = fetched()
    shard: list[dict[str, object]] = []
    counts: dict[str, dict[str, int]] = {}
    held = shards = files = 0
    rows: Iterable[dict[str, object]] = _rows(folder, config.megabytes)
    if config.by_repository:
        rows = sorted(rows, key=lambda row: (str(row["repo_name"]), str(row["path"])))
    for row in rows:
        size = len(str(row["content"]).encode())
        language = counts.setdefault(str(row["language"]), {"files": 0, "bytes": 0})
        language["files"] += 1
        language["bytes"] += size
        shard.append(row)
        held += size
        files += 1
        if held > config.shard_megabytes * 1e6:
            context.output.write_table(f"data/part-{shards:05d}.parquet", pa.Table.from_pylist(shard, schema=CORPUS))
            shard, held, shards = [], 0, shards + 1
    context.output.write_table(f"data/part-{shards:05d}.parquet", pa.Table.from_pylist(shard, schema=CORPUS))
    context.output.write_json("languages.json", counts)
    context.output.write_table(DROPPED_FILE, DROPPED.empty_table())
    total = sum(language["bytes"] for language in counts.values())
    return Outcome(files, files, details={"megabytes": total / 1e6, "languages": len(counts)})


STEP = Step(config=CodeCorpusConfig, run=_write, produces="collected")


def code_corpus(megabytes: float, kind: str = "collected") -> Artifact:
    """About `megabytes` of code as an artifact of kind `collected` or `corpus`; made once."""
    step = Step(config=CodeCorpusConfig, run=_write, produces=kind)
    return run_step(step, CodeCorpusConfig(megabytes=megabytes), root=str(BENCH / "corpora"), name=kind)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", type=float, nargs="+")
    for size in parser.parse_args().megabytes:
        made = code_corpus(size)
        print(size, made.manifest.counts, made.manifest.details)
