"""An opt-out reaches everything: list, collected rows, corpus, tokens, index, reports; killed, it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from starloom.attribution.answer import Index, Query
from starloom.attribution.owners import Owners
from starloom.errors import RunError, UserError
from starloom.governance import holdings
from starloom.governance.command import opt_out
from starloom.governance.opt_out import Wish, carry_out, go_on, pending, survey
from starloom.kinds import Attribution, Collected, Corpus, Report
from starloom.opt_outs import name_of
from starloom.recipe import Recipe, load_recipe, resolve
from starloom.step import run_step

pytestmark = pytest.mark.slow

THEIRS = "def winnow(rows, threshold_of_ann):\n    return [row for row in rows if row > threshold_of_ann]\n"
COPIED = "".join(
    f"def step_{n}(state):\n    state.append({n} * len(state) + {n + 3})\n    return state\n\n" for n in range(9)
)
OTHERS = "".join(
    f"class Shape{n}:\n    corners = {n}\n    def area(self, width):\n        return width * {n}\n" for n in range(9)
)
SECRET = "the line that only ann ever wrote, in a file of hers"


@pytest.fixture
def recipe(ray_cluster: str, tmp_path: Path) -> Recipe:
    """Three owners; bob has a file of ann's too, and hers is the one that is kept."""
    code = {
        "ann/sieve/main.py": f"{THEIRS}# {SECRET}\n",
        "ann/sieve/steps.py": COPIED,
        "bob/mine/steps.py": COPIED,
        "bob/mine/shapes.py": OTHERS,
        "cat/park/trees.py": OTHERS.replace("Shape", "Tree").replace("corners", "leaves") + "print('trees')\n",
    }
    for name, text in code.items():
        place = tmp_path / "code" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    rows = [{"repo_name": n.rsplit("/", 1)[0], "path": n.rsplit("/", 1)[1], "content": t} for n, t in code.items()]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out.txt").write_text("nobody/else")
    page = tmp_path / "recipe.toml"
    page.write_text(f"""
name = "small"
root = "{tmp_path}/run"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "jsonl", path = "{tmp_path}/code.jsonl" }}] }}
[[steps]]
name = "policy"
run = "data_jobs.policy"
needs = ["collected"]
config = {{ licenses = "any", opt_out = "{tmp_path}/out.txt" }}
[[steps]]
name = "duplicates"
run = "data_jobs.deduplicate"
needs = ["collected", "policy"]
[[steps]]
name = "corpus"
run = "data_jobs.curate"
needs = ["collected", "policy", "duplicates"]
[[steps]]
name = "tokenizer"
run = "data_jobs.train_tokenizer"
needs = ["corpus"]
config = {{ vocabulary = 300 }}
[[steps]]
name = "tokens"
run = "data_jobs.pack"
needs = ["corpus", "tokenizer"]
[[steps]]
name = "index"
run = "data_jobs.index"
needs = ["corpus"]
[[steps]]
name = "report"
run = "starloom.report"
needs = ["collected", "policy", "duplicates", "corpus"]
""")
    return load_recipe(str(page))


def in_this_process(recipe: Recipe) -> None:
    for entry in recipe.steps:
        status = next(one for one in resolve(recipe) if one.entry.name == entry.name)
        run_step(status.step, status.config, root=recipe.root, name=entry.name, needs=list(status.needs))


def everything(recipe: Recipe) -> bytes:
    """All bytes below the root, Parquet read as text: what a search for somebody's text looks through."""
    found = []
    for path in sorted(Path(recipe.root).rglob("*")):
        if path.is_file():
            found.append(path.read_bytes())
            if path.suffix == ".parquet":
                found.append(json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False, default=str).encode())
    return b"\n".join(found)


def quiet(line: str) -> None:
    del line


def names(rows: list[dict[str, str]]) -> list[str]:
    return [f"{row['repository']}/{row['path']}" for row in rows]


def test_it_is_gone_from_everything_and_told(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(recipe)
    statuses = {one.entry.name: one for one in resolve(recipe)}
    index = Index.open(Attribution(statuses["index"].artifact))
    assert index.ask(Query(THEIRS))["matches"]
    # a page that quotes hers
    page = Path(statuses["report"].folder) / Report.PAGE
    assert SECRET.encode() in everything(recipe)

    assert opt_out([str(tmp_path / "recipe.toml"), "@Ann", "https://github.com/dan/not-here"]) == 0
    said = capsys.readouterr().out
    assert "ann/sieve/main.py" in said
    assert "dan/not-here: nothing was collected of it; kept for later runs" in said
    assert (tmp_path / "out.txt").read_text() == "nobody/else"
    assert index.ask(Query(THEIRS))["matches"]

    del page
    where = carry_out(recipe, Wish(("ann", "dan/not-here"), "asked by mail"), run=in_this_process, say=quiet)
    assert (tmp_path / "out.txt").read_text().splitlines()[1].startswith("ann  # 20")
    # an index that was opened before says nothing of hers from now on, and one opened now has never seen it
    assert not index.ask(Query(THEIRS))["matches"]
    statuses = {one.entry.name: one for one in resolve(recipe)}
    assert [name for name, one in statuses.items() if one.artifact is None] == ["report"]
    view = Attribution(statuses["index"].artifact)
    assert not Index.open(view).ask(Query(THEIRS))["matches"]
    assert Index.open(view).ask(Query(COPIED))["matches"][0]["files"][0]["repository"] == "bob/mine"
    assert not Owners(view, Index.open(view)).ask(owner="ann")["in_corpus"]
    left = everything(recipe)
    assert SECRET.encode() not in left
    assert b"threshold_of_ann" not in left
    assert COPIED.encode() in left
    told = json.loads(Path(f"{where}.json").read_text())
    assert names(told["removed"]) == ["ann/sieve/main.py", "ann/sieve/steps.py"]
    assert names(told["came_back"]) == ["bob/mine/steps.py"]
    assert [(one["removed"], one["stays"], one["share"]) for one in told["copies"]] == [
        ("ann/sieve/steps.py", "bob/mine/steps.py", 1.0)
    ]
    assert told["unknown"] == ["dan/not-here"]
    assert "asked by mail" in Path(f"{where}.md").read_text()
    assert pending(recipe.root) is None
    # what is collected anew has the same rows without her text: the same bytes
    collected = Collected(statuses["collected"].artifact)
    before = {shard: Path(collected.artifact.path(f"data/{shard}")).read_bytes() for shard in collected.shards()}
    shutil.rmtree(collected.artifact.folder)
    in_this_process(recipe)
    assert before == {shard: Path(collected.artifact.path(f"data/{shard}")).read_bytes() for shard in before}


class KilledError(BaseException):
    """As a kill: nothing may catch it."""


def killed_at(number: int) -> Callable[[str], None]:
    left = number

    def say(line: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError(line)

    return say


def test_killed_anywhere_the_next_run_brings_it_to_its_end(recipe: Recipe) -> None:
    in_this_process(recipe)
    before = 0
    for number in range(40):
        try:
            if number == 0:
                carry_out(recipe, Wish(("ann",)), run=in_this_process, say=killed_at(number))
            else:
                go_on(recipe, run=in_this_process, say=killed_at(number))
        except KilledError:
            before = number
            begun = pending(recipe.root)
            assert begun is not None
            for folder in map(Path, begun.removing):  # as a kill in the middle of it would leave them
                for file in sorted(folder.rglob("*.parquet"))[:1] if (folder / "manifest.json").exists() else ():
                    file.unlink()
            continue
        break
    assert before >= 3
    assert b"threshold_of_ann" not in everything(recipe)
    told = [json.loads(path.read_text()) for path in Path(recipe.root, "opt-outs").glob("*.json")]
    assert [names(one["removed"]) for one in told] == [["ann/sieve/main.py", "ann/sieve/steps.py"]]


def test_killed_between_a_collected_shard_and_its_manifest_it_goes_on(recipe: Recipe) -> None:
    in_this_process(recipe)

    def dies(folder: str, names: list[str]) -> None:
        raise KilledError(folder)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(holdings, "written_again", dies)
        with pytest.raises(KilledError):
            carry_out(recipe, Wish(("ann",)), run=in_this_process, say=quiet)
    go_on(recipe, run=in_this_process, say=quiet)
    assert b"threshold_of_ann" not in everything(recipe)
    in_this_process(recipe)  # every artifact can be opened again
    assert pending(recipe.root) is None


def test_what_was_made_from_a_corpus_elsewhere_stays_where_that_holds_nothing(recipe: Recipe, tmp_path: Path) -> None:
    in_this_process(recipe)
    corpus = next(one.artifact for one in resolve(recipe) if one.entry.name == "corpus")
    assert corpus is not None
    elsewhere = shutil.copytree(corpus.folder, tmp_path / "elsewhere" / "corpus" / corpus.fingerprint)
    shutil.rmtree(Path(recipe.root, "corpus"))
    index = next(one for one in resolve(recipe) if one.entry.name == "index")
    made = run_step(index.step, index.config, root=recipe.root, name="theirs", needs=[str(elsewhere)])
    assert made.folder not in [one.folder for one in holdings.holding(recipe.root, {"zoe"}, {})]
    assert made.folder in [one.folder for one in holdings.holding(recipe.root, {"ann"}, {})]


def test_the_text_goes_also_when_nothing_is_left_to_make(recipe: Recipe) -> None:
    in_this_process(recipe)
    with pytest.raises(RunError, match="the corpus is empty"):
        carry_out(recipe, Wish(("ann", "bob", "cat")), run=in_this_process, say=quiet)
    left = everything(recipe)
    assert b"threshold_of_ann" not in left
    assert b"state.append" not in left
    assert not list(Path(recipe.root).glob("corpus/*/manifest.json"))


def test_before_anything_is_made_the_wish_is_kept(recipe: Recipe, tmp_path: Path) -> None:
    found = survey(recipe, ["ann"])
    assert (found.collected, found.files, found.again) == (0, (), ())
    carry_out(recipe, Wish(("ann",)), run=in_this_process, say=quiet)
    assert "ann  # 20" in (tmp_path / "out.txt").read_text()
    in_this_process(recipe)
    assert b"threshold_of_ann" not in everything(recipe)
    corpus = Corpus(next(one.artifact for one in resolve(recipe) if one.entry.name == "corpus"))
    assert "ann/sieve" not in {name for s in corpus.shards() for name in corpus.table(s)["repo_name"].to_pylist()}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ann", "ann"),
        ("@Ann", "ann"),
        ("Ann/Sieve", "ann/sieve"),
        ("https://github.com/Ann/Sieve.git", "ann/sieve"),
        ("git@github.com:ann/sieve.git", "ann/sieve"),
        ("ssh://git@gitlab.com:2222/group/sub/repo.git", "group/sub/repo"),
        ("https://gitlab.com/group/sub/repo/-/tree/main", "group/sub/repo"),
        ("https://github.com/ann/sieve/blob/main/a.py#L3", "ann/sieve"),
        ("<https://github.com/ann>", "ann"),
        ("- ann/*", "ann"),
        ("ann  # asked by mail", "ann"),
        ("# nobody", ""),
    ],
)
def test_the_usual_forms_of_an_entry(written: str, name: str) -> None:
    assert name_of(written, where="here") == name


def test_what_cannot_be_done_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither an owner nor owner/repo"):
        opt_out([str(tmp_path / "recipe.toml"), "two words"])
    with pytest.raises(UserError, match="name whom to take out"):
        opt_out([str(tmp_path / "recipe.toml")])
    with pytest.raises(UserError, match="no step reads a list of opt-outs"):
        opt_out(["quickstart", "ann"])
    (tmp_path / "out.txt").write_bytes("ann".encode("utf-16"))
    with pytest.raises(UserError, match="UTF-8"):
        carry_out(recipe, Wish(("bob",)), run=in_this_process, say=quiet)
    assert pending(recipe.root) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("results.json", json.dumps({"worst": [{"text": f"x\n  {SECRET}\n"}]})),
        ("generations.jsonl", json.dumps({"completion": SECRET}) + "\n"),
        ("report.html", f"<p>\n{SECRET}\n</p>"),
        ("page.html", "<pre>\nif (rows[0] &lt; 3 &amp;&amp; &quot;ann&quot; in the_names):\n</pre>"),
    ],
)
def test_pages_and_results_that_quote_are_seen(name: str, data: str) -> None:
    lines = holdings.telling_lines([SECRET, '\tif (rows[0] < 3 && "ann" in the_names):', "short"])
    assert len(lines) == 2
    assert holdings.quotes(data.encode(), name, lines)
    assert not holdings.quotes(b'{"a": "nothing of hers in this whole long line of text"}', name, lines)
