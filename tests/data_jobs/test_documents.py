"""Documents of every kind, notebooks and parts."""

import pytest

from data_jobs.admission import notebooks
from data_jobs.documents.rendering import DocumentConfig, Special, documents_of, render, star_bucket
from starloom.records import Part, join_parts, split_parts
from starloom.tokenizer import END_OF_TEXT
from tests.data_jobs.source_trees import notebook

ALWAYS, NEVER = DocumentConfig(metadata_rate=1), DocumentConfig(metadata_rate=0)


def row(content: str, kind: str = "file", number: int = 0) -> dict[str, object]:
    return {"id": f"{number:04d}", "repo_name": "o/r", "path": "a.py", "stars": 50, "kind": kind, "content": content}


def text(pieces: list[str | Special]) -> str:
    return "".join(piece.token if isinstance(piece, Special) else piece for piece in pieces)


def test_file_with_and_without_metadata() -> None:
    assert text(render(row("x = 1\n"), 0, NEVER)) == f"x = 1\n{END_OF_TEXT}"
    assert (
        text(render(row("x = 1\n"), 0, ALWAYS)) == f"<reponame>o/r<filename>a.py<gh_stars>10-100\nx = 1\n{END_OF_TEXT}"
    )


def test_each_field_stands_in_a_fifth_of_the_files_on_its_own_draw() -> None:
    options = DocumentConfig()
    drawn = [text(render(row("x", number=n), 3, options)) for n in range(4000)]
    for token in ("<reponame>", "<filename>", "<gh_stars>"):
        assert 0.17 < sum(token in document for document in drawn) / 4000 < 0.23
    assert sum("<reponame>" in d and "<filename>" in d for d in drawn) / 4000 < 0.06
    assert drawn == [text(render(row("x", number=n), 3, options)) for n in range(4000)]
    assert drawn != [text(render(row("x", number=n), 4, options)) for n in range(4000)]


def test_star_buckets() -> None:
    assert [star_bucket(n) for n in (0, 1, 10, 11, 100, 1000, 1001)] == [
        "0", "1-10", "1-10", "10-100", "10-100", "100-1000", "1000+",
    ]  # fmt: skip


def test_issue_commit_and_notebook_have_their_tokens() -> None:
    issue = join_parts(
        [Part("title", "T"), Part("comment", "username_0: a"), Part("comment", "username_1: b"), Part("closed", "")]
    )
    assert text(render(row(issue, "issue"), 0, NEVER)) == (
        f"<issue_start>T\nusername_0: a<issue_comment>username_1: b<issue_closed>{END_OF_TEXT}"
    )
    commit = join_parts([Part("before", "a"), Part("message", "m"), Part("after", "b")])
    assert text(render(row(commit, "commit"), 0, NEVER)) == f"<commit_before>a<commit_msg>m<commit_after>b{END_OF_TEXT}"
    cells = join_parts(
        [
            Part("text", "t"),
            Part("code", "c"),
            Part("output", ""),
            Part("text", "u"),
            Part("code", "d"),
            Part("output", "o"),
        ]
    )
    assert text(render(row(cells, "notebook"), 0, NEVER)) == (
        "<jupyter_start><jupyter_text>t<jupyter_code>c<empty_output>"
        f"<jupyter_text>u<jupyter_code>d<jupyter_output>o{END_OF_TEXT}"
    )


def test_repository_document_holds_every_file_once_with_names_half_of_the_time() -> None:
    named = 0
    for number in range(200):
        rows = [{**row(f"content {n}"), "repo_name": f"o/{number}", "path": f"{n}.py"} for n in range(3)]
        (made,) = documents_of([{**one, "language": None} for one in rows], 0, DocumentConfig(layout="repositories"))
        document = text([piece for section in made.sections for piece in section.pieces])
        assert document.count("<file_sep>") == 3
        assert all(document.count(f"content {n}") == 1 for n in range(3))
        named += document.startswith("<repo_name>")
    assert 70 < named < 130


def test_parts_survive_the_round_trip_and_their_separators_are_removed_from_text() -> None:
    parts = [Part("text", "a\nb"), Part("code", ""), Part("output", "ä")]
    assert split_parts(join_parts(parts)) == parts
    assert split_parts(join_parts([Part("text", "a\x1eb\x1fc")])) == [Part("text", "abc")]
    with pytest.raises(ValueError, match="no parts"):
        split_parts("plain")


def test_notebook_groups_cells_and_drops_leading_code_and_trailing_text() -> None:
    raw = notebook(
        ("code", "import x", ""),
        ("markdown", "# One", ""),
        ("markdown", "more", ""),
        ("code", "a = 1", "1" * 3000),
        ("code", "b = 2", ""),
        ("markdown", "the end", ""),
    )
    content = notebooks.structured(notebooks.parse(raw))
    assert content is not None
    assert split_parts(content) == [
        Part("text", "# One\nmore"),
        Part("code", "a = 1\nb = 2"),
        Part("output", "1" * 1000),
    ]
    assert notebooks.structured(notebooks.parse(notebook(("code", "a", "")))) is None


def test_notebook_as_a_script_comments_text_and_magics() -> None:
    script = notebooks.script(notebooks.parse(notebook(("markdown", "Hello", ""), ("code", "%matplotlib\nx = 1", ""))))
    assert script is not None
    assert (script.language, script.suffix) == ("Python", ".py")
    assert script.text == "# %% [markdown]\n# Hello\n\n# %%\n# %matplotlib\nx = 1\n"


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"cells": 3}', "not json", '{"cells": [1, "a"]}', "[" * 100_000])
def test_what_is_no_notebook_is_an_error_or_empty(raw: str) -> None:
    try:
        parsed = notebooks.parse(raw)
    except ValueError:
        return
    assert notebooks.structured(parsed) is None
