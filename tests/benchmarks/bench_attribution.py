"""Attribution over real code: recall against what is known to be there, build speed, size, and latency over HTTP.

Passages are cut from files of the corpus, so that each has a place that must be found; renamed ones have every name
changed. Data Portraits' rule (tiles of 50 characters, every 50) is asked for the same passages.
"""

import contextlib
import http.client
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from data_jobs import index
from serve_apps.hosting import serving_config
from starloom.artifact import Artifact, newest
from starloom.attribution import kernel
from starloom.attribution.answer import Index, Query
from starloom.attribution.lexing import KEYWORDS, keyword_table, style_of
from starloom.attribution.lookup import MINIMUM_LEXEMES, MINIMUM_SOLID, look_up
from starloom.attribution.segment import build
from starloom.config import validate
from starloom.governance.opt_out import Wish, carry_out
from starloom.kinds import Attribution, Corpus
from starloom.ports import free_port
from starloom.recipe import Recipe, resolve
from starloom.segmentfiles import FILES
from starloom.step import run_step
from tests.benchmarks.code_corpus import code_corpus
from tests.benchmarks.harness import BENCH, finish, table
from tests.benchmarks.serve_models import model_folder, random_prompt

MEGABYTES = 356
PASSAGES = 1000
RENAMED = 300
PORTRAIT_MEGABYTES = 40  # a Python set of tiles is large
REQUESTS = 300
CLIENTS, NEW = 16, 32
WITHDRAWN = "linux-source-6.1/crypto"


def main() -> None:
    """Measure, print tables and the figures."""
    corpus = code_corpus(MEGABYTES, Corpus.kind)
    root = BENCH / "attribution"
    config = validate(index.STEP.config, {}, where="index")
    view = Attribution(run_step(index.STEP, config, root=str(root), name="index", needs=[corpus]))
    opened = Index.open(view)
    size = sum(segment.info.bytes for segment in opened.segments)
    passages = {length: list(cut(opened, length, PASSAGES)) for length in (50, 80, 200)}
    figures: dict[str, float | int | None] = {}

    def tell(**found: float) -> None:
        figures.update(found)
        print(", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)

    for length, texts in passages.items():
        tell(**{f"recall_{length}": found_whole(opened, texts)})
    tell(recall_renamed=found_renamed(opened))
    tell(build_mb_per_s_per_core=build_speed(Corpus(corpus)))
    tell(index_bytes_per_byte=view.artifact.manifest.details["index_bytes"] / size)
    tell(**over_http(view, passages))
    tell(hostile_ms=hostile(opened))
    tell(portraits_recall_50=portraits(opened))
    tell(completions_with_over_without=completions(view))
    tell(**opt_out())
    seconds = f"made in {view.artifact.manifest.seconds:.0f} s"
    title = f"{size / 1e6:,.0f} MB of real code, {len(opened.segments)} segments, {seconds}"
    rows = [(name, "-" if value is None else value) for name, value in figures.items()]
    print(table(title, ("figure", "measured"), rows))
    finish("attribution", figures)


def cut(opened: Index, length: int, count: int) -> Iterator[tuple[str, int, int]]:
    """(passage, segment, file) of random places, with enough bytes that are not blank."""
    draws = random.Random(length)
    made = 0
    while made < count:
        number = draws.randrange(len(opened.segments))
        segment = opened.segments[number]
        file = draws.randrange(segment.info.files)
        text = segment.text_of(file)
        if len(text) < length:
            continue
        at = draws.randrange(len(text) - length + 1)
        passage = text[at : at + length]
        if passage[0].isspace() or len("".join(passage.split()).encode()) < MINIMUM_SOLID:
            continue
        made += 1
        yield passage, number, file


def found_whole(opened: Index, passages: list[tuple[str, int, int]]) -> float:
    """The share of passages of which one match covers everything but blanks at the ends."""
    hits = 0
    for passage, _, _ in passages:
        data = passage.encode()
        found = look_up(opened.segments, data, kinds=("exact", "white_space"), minimum_characters=24)
        end = len(data.rstrip())
        hits += any(match.start == 0 and match.end >= end for match in found.matches)
    return hits / len(passages)


def found_renamed(opened: Index) -> float:
    """The share of code with all names changed whose own file is named, of passages with enough lexemes in the file.

    What stands within a comment there is no code, however it looks when it is cut out.
    """
    hits = tried = 0
    for passage, number, file in cut(opened, 600, 20 * RENAMED):
        segment = opened.segments[number]
        language = segment.files["language"][file].as_py()
        style = style_of(language)
        text = "".join(passage.splitlines(keepends=True)[1:-1])  # whole lines: no half words
        changed = renamed(text)
        if not style or changed == text or lexemes_within(segment.text_of(file), text, style) < MINIMUM_LEXEMES:
            continue
        tried += 1
        found = look_up(opened.segments, changed.encode(), language=language)
        hits += any((place.segment, place.file) == (number, file) for match in found.matches for place in match.places)
        if tried == RENAMED:
            break
    return hits / tried


def lexemes_within(whole: str, part: str, style: int) -> int:
    """How many lexemes of a file's text stand in a part of it."""
    data = whole.encode("utf-8", "surrogatepass")
    q = np.frombuffer(data, np.uint8)
    at = np.empty(len(q), np.int64)
    room = (np.empty(len(q), np.uint64), at, np.empty(len(q), np.int64))
    count = int(kernel.lexemes(q, 0, len(q), style, keyword_table(), *room))
    first = data.index(part.encode("utf-8", "surrogatepass"))
    low, high = np.searchsorted(at[:count], (first, first + len(part.encode())))
    return int(high - low)


def renamed(text: str) -> str:
    """Every word that is no keyword and no number has another name, the same one each time."""
    names: dict[str, str] = {}
    known = set(KEYWORDS)
    return re.sub(
        r"(?<!\w)[A-Za-z_]\w*",
        lambda word: word[0] if word[0] in known else names.setdefault(word[0], f"w{len(names)}"),
        text,
    )


def build_speed(corpus: Corpus) -> float:
    """MB of text a second of CPU time, both levels, without reading Parquet."""
    tables = []
    size = 0
    for shard in corpus.shards():
        tables.append(corpus.table(shard))
        size += sum(len(text) for text in tables[-1]["content"].to_pylist())
        if size > 100e6:
            break
    rows = pa.concat_tables(tables)
    files = rows.select([name for name in FILES.names if name not in ("shard", "row")])
    files = files.append_column("shard", pa.array(["x"] * len(files), pa.string()))
    files = files.append_column("row", pa.array(range(len(files)), pa.int64())).select(FILES.names)
    texts = rows["content"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "warm", texts[:3], files.slice(0, 3))
        started = time.process_time()
        info = build(Path(folder) / "timed", texts, files)
        return info.bytes / 1e6 / (time.process_time() - started)


def over_http(view: Attribution, passages: dict[int, list[tuple[str, int, int]]]) -> dict[str, float]:
    """95th percentiles in milliseconds, all kinds of matches."""
    opened = Index.open(view)
    long = [passage for passage, _, _ in cut(opened, 4000, REQUESTS)]
    short = [passage for passage, _, _ in passages[200][:REQUESTS]]
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.attribution_server", view.artifact.folder, str(port)]
    with subprocess.Popen(command) as server:
        try:
            url = f"http://127.0.0.1:{port}/overlap"
            _wait(url)
            return {
                "http_p95_ms_200": _p95(url, [short]),
                "http_p95_ms_4000": _p95(url, [long]),
                "http_p95_ms_4_clients": _p95(url, [long[n::4] for n in range(4)]),
            }
        finally:
            server.kill()


def _wait(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.post(url, json={"document": "x"})
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _p95(url: str, clients: list[list[str]]) -> float:
    times: list[float] = []

    def asks(texts: list[str]) -> None:
        address = url.removeprefix("http://").split("/")[0]
        with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as client:
            for number, text in enumerate((*texts[:10], *texts)):  # the first touch pages that were never touched
                body = json.dumps({"document": text})
                started = time.perf_counter()
                client.request("POST", "/overlap", body, {"Content-Type": "application/json"})
                answer = client.getresponse()
                answer.read()
                assert answer.status == 200
                if number >= 10:
                    times.append(1e3 * (time.perf_counter() - started))

    threads = [threading.Thread(target=asks, args=(texts,)) for texts in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.quantiles(times, n=20)[-1]


def hostile(opened: Index) -> float:
    """Milliseconds of the slowest of texts that have too many places."""
    header = max((text for text, _, _ in cut(opened, 400, 20)), key=len)
    texts = ["=" * 4000, "0, " * 1333, "}\n" * 2000, (header * 10)[:4000]]
    return max(_milliseconds(lambda text=text: opened.ask(Query(text))) for text in texts)


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def opt_out() -> dict[str, float]:
    """One repository out of the corpus: seconds to the last old copy of it, and segments that were built again."""
    root = BENCH / "opt-out"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    recipe = validate(Recipe, opt_out_recipe(root), where="opt-out")
    bring_up(recipe)
    before = Attribution(newest_of(recipe))
    started = time.perf_counter()
    carry_out(recipe, Wish((WITHDRAWN,)), run=bring_up, say=lambda line: None)
    seconds = time.perf_counter() - started
    after = Attribution(newest_of(recipe))
    known = {info.rows for info in before.segments().values()}
    again = sum(info.rows not in known for info in after.segments().values())
    files = before.artifact.manifest.counts.rows_out - after.artifact.manifest.counts.rows_out
    segments = f"{again} of {len(after.segments())} segments"
    print(f"{WITHDRAWN}: {files:,} files, {segments} built again, {seconds:.0f} s\n")
    shutil.rmtree(root)
    return {"opt_out_seconds": seconds, "opt_out_segments_again": again}


def opt_out_recipe(root: Path) -> dict[str, Any]:
    """Collect, policy, curate, index over the corpus with its repositories together."""
    corpus = {"megabytes": MEGABYTES, "by_repository": True}
    policy = {"licenses": "any", "opt_out": str(root / "list.txt")}
    steps = [
        {"name": "collected", "run": "tests.benchmarks.code_corpus", "config": corpus},
        {"name": "policy", "run": "data_jobs.policy", "needs": ["collected"], "config": policy},
        {"name": "corpus", "run": "data_jobs.curate", "needs": ["collected", "policy"]},
        {"name": "index", "run": "data_jobs.index", "needs": ["corpus"], "config": {"segment_megabytes": 32}},
    ]
    (root / "list.txt").write_text("")
    return {"name": "opt-out", "root": str(root / "run"), "steps": steps}


def bring_up(recipe: Recipe) -> None:
    """Each step that is not done, in this process."""
    for entry in recipe.steps:
        status = next(one for one in resolve(recipe) if one.entry.name == entry.name)
        run_step(status.step, status.config, root=recipe.root, name=entry.name, needs=list(status.needs))


def newest_of(recipe: Recipe) -> Artifact:
    """The index of a recipe."""
    found = newest(recipe.root, Attribution.kind)
    assert found is not None
    return found


def completions(view: Attribution) -> float:
    """Tokens a second of 16 clients whose completions are looked up, over those of as many that ask for none."""
    folder = model_folder(BENCH / "serve")
    values = {"models": [{"folder": str(folder), "engine": {"drafts": 0, "queue": 32}}]}
    values["attribution"] = {"index": view.artifact.folder}  # type: ignore[assignment]
    rates: dict[bool, list[float]] = {True: [], False: []}
    with serving_config(values) as url:
        for number in range(5):  # in turn, so that a busy machine is busy for both
            for asked in (False, True):
                rates[asked].append(_rate(url, folder.name, number, asked))
    return max(rates[True]) / max(rates[False])


def _rate(url: str, model: str, number: int, asked: bool) -> float:
    prompts = [random_prompt(32, 1000 * number + n) for n in range(CLIENTS)]

    def ask(prompt: list[int]) -> None:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": NEW,
            "temperature": 0,
            "ignore_eos": True,
        }
        if asked:
            body["attribution"] = "report"
        httpx.post(f"{url}/v1/completions", json=body, timeout=300).raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, prompts))
    return CLIENTS * NEW / (time.perf_counter() - started)


def portraits(opened: Index) -> float:
    """The share of passages of 50 characters that tiles find: one must begin where the passage does."""
    tiles: set[str] = set()
    passages: list[str] = []
    draws = random.Random(5)
    taken = 0
    segment = opened.segments[0]
    for file in range(segment.info.files):
        text = "".join(segment.text_of(file).split())
        taken += len(text)
        tiles.update(text[at : at + 50] for at in range(0, len(text) - 49, 50))
        if len(text) >= 50 and len(passages) < PASSAGES:
            at = draws.randrange(len(text) - 49)
            passages.append(text[at : at + 50])
        if taken > PORTRAIT_MEGABYTES * 1e6:
            break
    return sum(passage in tiles for passage in passages) / len(passages)


if __name__ == "__main__":
    main()
