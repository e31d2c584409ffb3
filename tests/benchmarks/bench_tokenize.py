"""Packing beside `tokenizers`, identity of the ids, opening a data set of 100 billion tokens, the time of a sample.

`make bench-tokenize`; with `--peer SHARDS TOKENIZER OUT` it is the child process that times `encode_batch_fast`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_jobs import pack, train_tokenizer
from data_jobs.documents.rendering import DocumentConfig
from starloom.artifact import Artifact
from starloom.step import run_step
from starloom.tokenizer import load_tokenizer
from starloom.tokens import FimConfig, ShardGroup, TokenDataset, TokenShard
from tests.benchmarks.code_corpus import code_corpus
from tests.benchmarks.harness import BENCH, cores, finish, table

PACKED_MB, PEER_MB, TRAINING_MB, VOCABULARY, CONTEXT = 400.0, 100.0, 20.0, 49_152, 8192


def peer(shards: str, tokenizer: str, out: str) -> dict[str, float]:
    """`tokenizers` with all cores: Parquet to one .bin per shard, as uint16."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(tokenizer)
    loaded.encode_special_tokens = True
    started = time.perf_counter()
    size = 0
    for shard in sorted(Path(shards).glob("*.parquet")):
        texts = pq.read_table(shard, columns=["content"])["content"].to_pylist()
        size += sum(len(text.encode()) for text in texts)
        ids = [encoding.ids for encoding in loaded.encode_batch_fast(texts, add_special_tokens=False)]
        Path(out, shard.stem + ".bin").write_bytes(
            np.concatenate([np.asarray(one, np.uint16) for one in ids]).tobytes()
        )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": size / 1e6}


def packed(source: Artifact, tokenizer: Artifact, root: str) -> tuple[Artifact, float]:
    """Our step on a running Ray, and its seconds."""
    config = pack.PackConfig(documents=DocumentConfig(metadata_rate=0.0))
    started = time.perf_counter()
    made = run_step(pack.STEP, config, root=root, name="tokens", needs=[source, tokenizer])
    return made, time.perf_counter() - started


def identical_share(source: Artifact, tokens: Artifact, tokenizer: Artifact) -> float:
    """The share of the files of the first shard whose packed ids are those of `tokenizers`."""
    reference = load_tokenizer(tokenizer.local())
    expected: dict[bytes, int] = {}
    contents = source.read_table(source.files("data/")[0], ["content"])["content"].to_pylist()
    for content in contents:
        key = np.array([*reference.encode(content), reference.special("<|endoftext|>")], dtype=np.int64).tobytes()
        expected[key] = expected.get(key, 0) + 1
    found = 0
    for split in ("train", "heldout"):
        shard = TokenShard(tokens.local() / split / "part-00000", tokens.manifest.details["dtype"])
        for number in range(shard.documents):
            key = shard.document(number).astype(np.int64).tobytes()
            if expected.get(key):
                expected[key] -= 1
                found += 1
    return found / len(contents)


def open_seconds(folder: Path) -> float:
    """Seconds until the first sample of a sparse data set of 100 billion tokens in 100 shards."""
    shards = []
    for number in range(100):
        stem = folder / f"part-{number:05d}"
        for suffix, size in ((".bin", 2 * 10**9), (".idx", 16)):
            with open(stem.with_name(stem.name + suffix), "wb") as file:
                file.truncate(size)
        shards.append(TokenShard(stem, "uint16"))
    started = time.perf_counter()
    TokenDataset([ShardGroup(tuple(shards))], context=CONTEXT, seed=0)[10**7]
    return time.perf_counter() - started


def sample_microseconds(tokens: Artifact, tokenizer: Artifact, fim: FimConfig | None, count: int) -> float:
    """The mean time of a sample of 8,192 tokens."""
    names = [name for name in tokens.manifest.details["shards"] if name.startswith("train/")]
    shards = tuple(TokenShard(tokens.local() / name, tokens.manifest.details["dtype"]) for name in names)
    dataset = TokenDataset(
        [ShardGroup(shards)], context=CONTEXT, seed=0, tokenizer=load_tokenizer(tokenizer.local()), fim=fim
    )
    dataset[0]
    started = time.perf_counter()
    for number in range(count):
        dataset[number]
    return (time.perf_counter() - started) / count * 1e6


def measure() -> None:
    """The whole table."""
    import ray

    source, few = code_corpus(PACKED_MB, "corpus"), code_corpus(TRAINING_MB, "corpus")
    ray.init(address="local", num_cpus=cores(), include_dashboard=False, object_store_memory=1 << 30)
    config = train_tokenizer.TrainTokenizerConfig(vocabulary=VOCABULARY)
    tokenizer = run_step(train_tokenizer.STEP, config, root=str(BENCH / "corpora"), name="tokenizer", needs=[few])
    with tempfile.TemporaryDirectory() as root:
        packed(few, tokenizer, f"{root}/warm")
        tokens, seconds = packed(source, tokenizer, root)
        identical = identical_share(source, tokens, tokenizer)
        plain = sample_microseconds(tokens, tokenizer, None, 5000)
        with_fim = sample_microseconds(tokens, tokenizer, FimConfig(), 200)
        opened = open_seconds(Path(tempfile.mkdtemp(dir=root)))
        ray.shutdown()
        shards = code_corpus(PEER_MB, "corpus").path("data")
        command = [sys.executable, "-m", "tests.benchmarks.bench_tokenize", "--peer", shards]
        command += [str(tokenizer.local("tokenizer.json")), tempfile.mkdtemp(dir=root)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    megabytes = source.manifest.details["megabytes"]
    ours, peers = megabytes / seconds, theirs["mb"] / theirs["seconds"]
    rows = [
        (f"starloom pack ({tokens.manifest.details['route']})", megabytes, seconds, ours),
        ("tokenizers encode_batch_fast", theirs["mb"], theirs["seconds"], peers),
    ]
    print(table(f"Parquet to token shards, {cores()} cores", ("route", "MB", "seconds", "MB/s"), rows))
    figures = {
        "pack_mb_per_s": ours,
        "pack_over_tokenizers": ours / peers,
        "ids_identical": identical,
        "open_seconds_100b": opened,
        "sample_microseconds": plain,
        "sample_microseconds_with_fim": with_fim,
    }
    finish("tokenize", figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", nargs=3, metavar=("SHARDS", "TOKENIZER", "OUT"))
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(peer(*options.peer)))
    else:
        measure()


if __name__ == "__main__":
    main()
