"""A near-duplicate pipeline on rensa, as its users write it: Python shingles, its sketches and index, union-find.

Runs in rensa's own environment: rensa_dedup.py SHARD_FOLDER PROCESSES. Prints seconds and counts as JSON.
"""

import json
import re
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import pyarrow.parquet as pq
from rensa import RMinHash, RMinHashLSH

WORDS = re.compile(r"[^A-Za-z_0-9]+")
NGRAM, PERMUTATIONS, BANDS, THRESHOLD = 5, 252, 42, 0.7


def shingles(text: str) -> list[str]:
    words = [word for word in WORDS.split(text) if word]
    return [" ".join(words[n : n + NGRAM]) for n in range(len(words) - NGRAM + 1)]


def sketch_shard(path: Path) -> list[RMinHash]:
    sketches = []
    for text in pq.read_table(path, columns=["content"])["content"].to_pylist():
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(shingles(text))
        sketches.append(sketch)
    return sketches


def main() -> None:
    started = time.perf_counter()
    shards = sorted(Path(sys.argv[1]).glob("*.parquet"))
    with Pool(int(sys.argv[2])) as pool:
        sketches = [sketch for shard in pool.imap(sketch_shard, shards) for sketch in shard]
    signed = time.perf_counter() - started
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    parent = list(range(len(sketches)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for number, sketch in enumerate(sketches):
        for other in index.query(sketch):
            if sketch.jaccard(sketches[other]) >= THRESHOLD:
                first, second = sorted((root(other), root(number)))
                parent[second] = first
        index.insert(number, sketch)
    kept = sum(root(node) == node for node in range(len(sketches)))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "sign_seconds": signed, "files": len(sketches), "kept": kept}))


if __name__ == "__main__":
    main()
