"""The order of a run: steps side by side, early cut-off, and who is told of its end."""

import json
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.jobs import Jobs
from starloom.recipe import State, load_recipe, resolve
from starloom.runner import run_recipe
from starloom.schedule import Schedule
from tests.patience import PATIENCE

MODULES = {
    "rows_step": """
        from pathlib import Path
        from starloom.config import Config
        from starloom.errors import UserError
        from starloom.program import main
        from starloom.step import Outcome, Step

        class RowsConfig(Config):
            source: str

        def run(config, context):
            "The source's lines, and how many of them are none."
            lines = context.source.split("\\n")
            context.output.write_json("data/rows.json", [line for line in lines if line])
            context.output.write_json("card.json", len(lines))
            return Outcome()

        def state(config):
            if not Path(config.source).exists():
                raise UserError(f"{config.source}: no such source")
            return Path(config.source).read_text()

        STEP = Step(config=RowsConfig, run=run, produces="rows", source_state=state)
        if __name__ == "__main__":
            main(STEP)
    """,
    "sum_step": """
        from starloom.config import Config
        from starloom.program import main
        from starloom.step import Outcome, Step

        class SumConfig(Config):
            least: int = 0

        def run(config, context):
            "Add the rows up."
            rows = context.only("rows").read_json("data/rows.json")
            context.output.write_json("sum.json", sum(int(row) for row in rows if int(row) >= config.least))
            return Outcome()

        STEP = Step(config=SumConfig, run=run, produces="sum", reads={"rows": ("data/",)})
        if __name__ == "__main__":
            main(STEP)
    """,
    "meeting_step": """
        import time
        from pathlib import Path
        from starloom.config import Config
        from starloom.errors import RunError
        from starloom.program import main
        from starloom.step import Outcome, Step

        class MeetingConfig(Config):
            folder: str
            own: str
            other: str
            fail: bool = False

        def run(config, context):
            "Come, and wait for the other one."
            (Path(config.folder) / config.own).touch()
            while not (Path(config.folder) / config.other).exists():
                time.sleep(0.05)
            if config.fail:
                raise RunError("they have met, and that was all")
            return Outcome()

        STEP = Step(config=MeetingConfig, run=run, produces="met")
        if __name__ == "__main__":
            main(STEP)
    """,
}
SUMS = """
    name = "sums"
    root = "{root}"
    [[steps]]
    name = "rows"
    run = "rows_step"
    config = {{ source = "{source}" }}
    [[steps]]
    name = "sum"
    run = "sum_step"
    needs = ["rows"]
    [[steps]]
    name = "twice"
    run = "rows_step"
    needs = ["sum"]
    config = {{ source = "{source}.constant" }}
"""
MEETING = """
    name = "meeting"
    root = "{root}"
    at_once = 2
    [at_end]
    url_variable = "WHO_IS_TOLD"
    command = ["sh", "-c", "echo $STARLOOM_TEXT >> {root}/told"]
    [[steps]]
    name = "one"
    run = "meeting_step"
    config = {{ folder = "{root}", own = "a", other = "b" }}
    [[steps]]
    name = "two"
    run = "meeting_step"
    config = {{ folder = "{root}", own = "b", other = "a" }}
"""


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with step modules and recipes that use them."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd() / 'platform'}:{Path.cwd()}")
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "source").write_text("1\n2")
    (tmp_path / "source.constant").write_text("7")
    (tmp_path / "sums.toml").write_text(textwrap.dedent(SUMS.format(root=root, source=tmp_path / "source")))
    (tmp_path / "meeting.toml").write_text(textwrap.dedent(MEETING.format(root=root)))
    return tmp_path


def _runs(folder: Path, sources: Sequence[str]) -> None:
    """In a process of its own, with a Ray of its own: a run for each text of the source; what each said and left."""
    recipe, told = load_recipe(str(folder / "sums.toml")), []
    with Jobs("sums") as jobs:
        for text in sources:
            (folder / "source").write_text(text)
            said: list[str] = []
            before = [status.state.value for status in resolve(recipe)]
            Schedule(recipe, resolve(recipe), recipe.names, said.append).carry_out(jobs)
            folders = {status.entry.name: status.folder for status in resolve(recipe)}
            told.append({"before": before, "said": [line.split()[:2] for line in said], "folders": folders})
    (folder / "told.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_what_reads_the_same_is_not_made_again(recipes: Path) -> None:
    texts = ("1\n2", "1\n\n2", "1\n\n2", "1\n\n3")  # a line more that is none: other card, same rows
    process = multiprocessing.get_context("spawn").Process(target=_runs, args=(recipes, texts))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    first, same, again, other = json.loads((recipes / "told.json").read_text())
    assert same["before"] == ["stale"] * 3  # nobody knows yet
    assert same["said"] == [["▶", "rows"], ["✓", "rows"], ["·", "sum"], ["·", "twice"]]
    assert same["folders"]["rows"] != first["folders"]["rows"]
    assert [same["folders"][name] == first["folders"][name] for name in ("sum", "twice")] == [True, True]
    assert (again["before"], again["said"]) == (["done"] * 3, [])
    assert [line for line in other["said"] if line[0] == "▶"] == [["▶", "rows"], ["▶", "sum"], ["▶", "twice"]]

    # what it would have made of the new rows is what there is
    made = Artifact.open(same["folders"]["sum"])
    assert made.read_json("sum.json") == 3
    assert made.manifest.inputs[0].fingerprint == first["folders"]["rows"].rsplit("/", 1)[-1]
    (recipes / "source").write_text(texts[1])
    changed = resolve(load_recipe(str(recipes / "sums.toml"), assignments=("sum.least=2",)))
    assert [status.state for status in changed] == [State.DONE, State.STALE, State.STALE]
    assert changed[1].needs == (f"rows/{changed[0].fingerprint}",)
    _without_the_source(recipes)


def _without_the_source(recipes: Path) -> None:
    recipe = load_recipe(str(recipes / "sums.toml"))
    now = [status.folder for status in resolve(recipe)]
    (recipes / "root" / "rows" / now[0].rsplit("/", 1)[-1] / "manifest.json").touch()  # the one that was done last
    (recipes / "source").unlink()
    with pytest.raises(UserError, match="no such source"):
        resolve(recipe)
    notes: list[str] = []
    assert [status.folder for status in resolve(recipe, absent=notes.append)] == now
    assert [note.partition(":")[0] for note in notes] == ["rows"]
    never = load_recipe(str(recipes / "sums.toml"), assignments=(f"rows.source={recipes}/nowhere",))
    with pytest.raises(UserError, match="no such source"):
        resolve(never, absent=notes.append)


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a service that takes JSON, and what it has taken."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", taken
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_steps_run_side_by_side_and_the_end_is_told(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, root = recipes / "meeting.toml", recipes / "root"
    with listening() as (url, taken):
        monkeypatch.setenv("WHO_IS_TOLD", url)
        command = [sys.executable, "-m", "starloom.cli", "run", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (
            "".join(line[0] for line in done.stdout.splitlines() if line[0] in "▶✓") == "▶▶✓✓"
        )  # each waits for the other

        for name in ("a", "b"):
            (root / name).unlink()
        command += ["--set", "one.fail=true", "--set", "two.other=c", "--set", "two.own=b"]
        (root / "c").touch()
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "error: step one: they have met, and that was all"
        assert "✓ two" in done.stdout  # its work is kept
    assert [(end["recipe"], end["outcome"], end["message"]) for end in taken] == [
        ("meeting", "succeeded", ""),
        ("meeting", "failed", "step one: they have met, and that was all"),
    ]
    assert (root / "told").read_text().splitlines() == [end["text"] for end in taken]


def test_a_url_that_is_not_there_is_told_before_anything_starts(recipes: Path) -> None:
    with pytest.raises(UserError, match="WHO_IS_TOLD"):
        run_recipe(load_recipe(str(recipes / "meeting.toml")), say=lambda line: None)
    assert not (recipes / "root" / "one").exists()
