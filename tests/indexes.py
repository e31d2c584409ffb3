"""Indexes as artifacts, from texts that a test names."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from starloom.artifact import ArtifactWriter, Counts, Manifest
from starloom.attribution.segment import build
from starloom.kinds import Attribution
from starloom.segmentfiles import FILES

BLEND = """\
def blend(first, second, share):
    mixed = []
    for one, other in zip(first, second):
        mixed.append(one * share + other * (1 - share))
    return mixed
"""
File = tuple[str, str, Sequence[str], str]  # repository, path, licences, text


def write_index(root: Path, segments: Sequence[Sequence[File]]) -> str:
    """The folder of an artifact whose segments hold these files."""
    writer = ArtifactWriter(str(root / "index" / "0123456789abcdef"))
    infos = {}
    for number, files in enumerate(segments):
        rows = [
            {
                "shard": f"part-{number:05d}.parquet",
                "row": row,
                "id": hashlib.sha256(f"{repository}/{path}".encode()).hexdigest(),
                "repo_name": repository,
                "path": path,
                "kind": "file",
                "language": "Python",
                "licenses": list(licenses),
                "commit": "c0ffee",
            }
            for row, (repository, path, licenses, _) in enumerate(files)
        ]
        name = Attribution.segment(number)
        texts = [text for *_, text in files]
        infos[name] = asdict(build(writer.local_folder(name), texts, pa.Table.from_pylist(rows, schema=FILES)))
    repositories = [
        {"owner": repository.split("/")[0], "repo_name": repository, "files": 1, "bytes": len(text),
         "licenses": list(licenses), "languages": ["Python"], "kinds": ["file"]}
        for files in segments for repository, _, licenses, text in files
    ]  # fmt: skip
    writer.write_table(
        Attribution.REPOSITORIES, pa.Table.from_pylist(repositories, schema=Attribution.REPOSITORIES_SCHEMA)
    )
    files = writer.inventory()
    count = sum(map(len, segments))
    writer.finish(
        Manifest(
            step="index", kind=Attribution.kind, fingerprint="0123456789abcdef", provenance={}, config={}, inputs=(),
            counts=Counts(rows_in=count, rows_out=count),
            details=Attribution.details(corpus="c" * 16, segments=infos, index_bytes=0),
            bytes=sum(one.bytes for one in files.values()), seconds=0.0, packages={}, files=files,
        )
    )  # fmt: skip
    return writer.folder
