"""What counts as memorized: passages of the files that were learnt, not of those that were held out."""

from pathlib import Path

import pyarrow as pa
import pytest

from serve_apps.memorization import HUMAN, Prompt, Written, measured
from starloom.attribution.answer import Index
from starloom.attribution.segment import Segment, build
from starloom.segmentfiles import FILES
from tests.models import tiny_tokenizer

LEARNT = "def area(width, height):\n    return width * height  # of a rectangle, in square units\n"
HELD = "class Stack:\n    def push(self, item):\n        self.items.append(item)\n        return len(self.items)\n"
NEW = "import nothing_like_it\nfor letter in alphabet_of_another_world:\n    letter.speak(loudly=True)\n"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    rows = [
        {"shard": "a", "row": n, "id": str(n), "repo_name": f"o/{name}", "path": "f.py", "language": "Python",
         "licenses": ["MIT"], "kind": "file", "commit": None}
        for n, name in enumerate(("learnt", "held"))
    ]  # fmt: skip
    build(tmp_path / "s", [LEARNT, HELD], pa.Table.from_pylist(rows, schema=FILES))
    return Index("f" * 16, "c" * 16, (Segment(tmp_path / "s"),))


def test_figures_are_by_prompts_and_writer_and_leave_held_out_files_out(index: Index) -> None:
    trained = Prompt("training", (1, 2), LEARNT, "Python")
    held = Prompt("held-out", (1, 2), HELD, "Python")
    samples = [
        Written(trained, LEARNT, "temperature 0"),
        Written(trained, NEW, "temperature 0"),
        Written(held, HELD, HUMAN),
        Written(Prompt("nothing", (0,), "", ""), NEW, "temperature 0"),
    ]
    found = measured(samples, index, tiny_tokenizer(LEARNT + HELD), ignore=["o/held"])
    figures = {(row["prompts"], row["writer"]): row for row in found["figures"]}
    copied = figures["training", "temperature 0"]
    assert copied["samples"] == 2
    assert copied["share"] == pytest.approx(len(LEARNT) / (len(LEARNT) + len(NEW)))
    assert copied["with_a_passage"] == copied["extractable"] == 0.5
    assert copied["longest"] == len(LEARNT)
    assert figures["held-out", HUMAN]["share"] == 0
    assert figures["nothing", "temperature 0"]["extractable"] == 0
    assert list(found["languages"]) == ["Python"]
    assert [row["matches"][0]["files"][0]["repository"] for row in found["worst"]] == ["o/learnt"]
