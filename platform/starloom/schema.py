"""The tables in which the three packages meet.

Text is written twice at most, as `CORPUS` collected and as `CORPUS` curated; an index keeps a copy of its own.
Everything between is a small table whose rows point at a row of a collected shard. The shard's file name
(``part-00000.parquet``) is the same in each artifact.
"""

import pyarrow as pa

CORPUS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # sha256 of the content, hex
        pa.field("repo_name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("licenses", pa.list_(pa.string())),  # SPDX expressions that all hold
        pa.field("license_source", pa.string()),  # what tells them: a tag, the names of files with their scores
        pa.field("stars", pa.int64()),
        pa.field("commit", pa.string()),
        pa.field("source", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
        pa.field("encoding", pa.string()),  # that the content was in before it was UTF-8
        pa.field("content", pa.large_string(), nullable=False),
    ]
)
KINDS = ("file", "issue", "commit", "notebook")

# Files that did not make it, with the stage that decided.
DROPPED = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("repo_name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

# Files of the sources that tell licences. `licenses` is empty where a text is none that SPDX lists: it covers itself.
LICENSES = pa.schema(
    [
        pa.field("repo_name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("covers", pa.string(), nullable=False),  # a folder; empty: the whole repository
        pa.field("kind", pa.string(), nullable=False),  # text, library (LICENSES/), metadata
        pa.field("licenses", pa.list_(pa.string())),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

# One table per collected shard, rows only for dropped files, in ascending order of `row`.
DECISIONS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

# Replacements inside a file; start and end count characters (code points) of the collected content.
EDITS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)

# Every member of every duplicate cluster with more than one member; jaccard is to the survivor, and `via` is the next
# file on the chain of verified pairs that leads to it.
CLUSTERS = pa.schema(
    [
        pa.field("cluster", pa.int64(), nullable=False),
        pa.field("repo_name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("survivor_repo", pa.string(), nullable=False),
        pa.field("survivor_path", pa.string(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
        pa.field("via_repo", pa.string(), nullable=False),
        pa.field("via_path", pa.string(), nullable=False),
    ]
)
