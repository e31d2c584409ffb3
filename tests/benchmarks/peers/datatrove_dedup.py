"""datatrove's four MinHash stages over the same Parquet shards, with our n-grams, bands and rows.

Runs in datatrove's own environment: datatrove_dedup.py SHARD_FOLDER WORK_FOLDER PROCESSES. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.logging import logger

NGRAM, BANDS, ROWS = 5, 42, 6


def run(steps: list, work: str, name: str, tasks: int, workers: int) -> float:
    started = time.perf_counter()
    executor = LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=f"{work}/logs/{name}")
    executor.run()
    return time.perf_counter() - started


def main() -> None:
    logger.remove()
    shards, work, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    tasks = len(list(Path(shards).glob("*.parquet")))

    def reader() -> ParquetReader:
        return ParquetReader(shards, text_key="content", read_metadata=False)

    times = {
        "sign": run([reader(), MinhashDedupSignature(f"{work}/sig", config)], work, "sign", tasks, workers),
        "buckets": run(
            [MinhashDedupBuckets(f"{work}/sig", f"{work}/buckets", config=config)], work, "buckets", BANDS, workers
        ),
        "cluster": run([MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config)], work, "cluster", 1, 1),
        "filter": run([reader(), MinhashDedupFilter(f"{work}/remove")], work, "filter", tasks, workers),
    }
    print(json.dumps({"seconds": sum(times.values()), "stages": times}))


if __name__ == "__main__":
    main()
