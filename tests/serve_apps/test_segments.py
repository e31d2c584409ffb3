"""An index whose segments lie in replicas of their own tells what one replica with all of them tells."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serve_apps.hosting import serving_config
from serve_apps.segments import Here
from starloom.artifact import Artifact
from starloom.attribution.answer import Query, answer_of
from starloom.kinds import Attribution
from tests.indexes import BLEND, write_index
from tests.models import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.slow

COUNT = "class Counter:\n    def add(self, amount):\n        self.total += amount\n        return self.total * 2\n"
FILES = [
    ("ann/mix", "blend.py", ["MIT"], BLEND),
    ("bob/own", "mine.py", [], BLEND),
    ("cat/odd", "count.py", ["Apache-2.0"], COUNT),
]


def test_segments_in_replicas_of_their_own_tell_the_same(ray_cluster: str, tmp_path: Path) -> None:
    whole = Here(Attribution(Artifact.open(write_index(tmp_path / "one", [FILES]))))
    query = Query(f"x = 1\n{BLEND}\n{COUNT}")
    expected = answer_of(query, asyncio.run(whole.find(query)), "")
    assert [match["count"] for match in expected["matches"]] == [2, 1]
    model = write_tiny_model(tmp_path / "tiny", tiny_tokenizer())
    parts = write_index(tmp_path / "two", [FILES[:1], FILES[1:]])
    values = {"models": [{"folder": str(model)}], "attribution": {"index": parts, "segments_per_replica": 1}}
    with serving_config(values) as base:
        answer = httpx.post(f"{base}/overlap", json={"document": query.document}).json()
        assert answer["matches"] == expected["matches"]
        assert answer["spans"] == expected["spans"]
        found = httpx.get(f"{base}/corpus", params={"path": "mine.py"}).json()
        assert [row["repository"] for row in found["files"]] == ["bob/own"]
        assert httpx.get(f"{base}/corpus", params={"owner": "cat"}).json()["in_corpus"]
        asked = {"prompt": "def f", "max_tokens": 4, "attribution": "report"}
        told = httpx.post(f"{base}/v1/completions", json=asked).json()
        assert told["choices"][0]["attribution"]["index"] == answer["index"]
