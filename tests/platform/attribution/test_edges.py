"""Inputs at the edge: offsets after emoji, lines of a megabyte, ends of files, comments that a window cuts."""

from pathlib import Path

import pytest

from starloom.artifact import Artifact, ArtifactWriter
from starloom.attribution.answer import Index, Query
from starloom.errors import UserError
from starloom.kinds import Attribution, Corpus, Model, check_index
from starloom.step import Outcome, produce
from tests.platform.attribution.test_lookup import made

CODE = """\
def weigh(items, scale):
    total = 0
    for item in items:
        total += item.mass * scale
    return total
"""


def index(folder: Path, texts: list[str], language: str = "Python") -> Index:
    return Index("f" * 16, "c" * 16, (made(folder, texts, language),))


@pytest.mark.parametrize("before", ["\U0001f600", "e\u0301", "\ufeff", "\0\0", "ｗｉｄｅ", "\ud83d"])
def test_offsets_count_what_comes_before(tmp_path: Path, before: str) -> None:
    opened = index(tmp_path / "s", [CODE])
    document = before + "\n" + CODE
    points = opened.ask(Query(document, offsets="code-points"))["spans"][0]
    assert document[slice(*points)].strip() == CODE.strip()
    units = opened.ask(Query(document, offsets="utf-16"))["spans"][0]
    half = document.encode("utf-16-le", "surrogatepass")
    assert half[2 * units[0] : 2 * units[1]].decode("utf-16-le").strip() == CODE.strip()


def test_a_match_may_be_a_files_first_and_last_byte(tmp_path: Path) -> None:
    first = "alpha_beta = gamma_delta + epsilon_zeta * 1234567"
    last = "omega_psi(chi_phi, upsilon_tau, sigma_rho + 7654321)"
    opened = index(tmp_path / "s", [f"{first}\n{'x = 1;' * 40}\n{last}", "y"])
    for passage, lines in ((first, [1, 1]), (last, [3, 3])):
        match = opened.ask(Query(passage, minimum_characters=40))["matches"][0]
        assert match["span"] == [0, len(passage)]
        assert match["files"][0]["lines"] == lines


def test_a_line_of_a_megabyte_is_looked_up_and_shown_short(tmp_path: Path) -> None:
    line = "var t=[" + ",".join(f'[{n},{n * 7 % 1013},"k{n}"]' for n in range(60_000)) + "];"
    assert len(line) > 1_000_000
    opened = index(tmp_path / "s", [line], "JavaScript")
    answer = opened.ask(Query(line[500_000:500_300], excerpt=True))
    assert answer["spans"] == [[0, 300]]
    assert answer["matches"][0]["files"][0]["lines"] == [1, 1]
    assert len(answer["matches"][0]["files"][0]["excerpt"]["text"]) < 20_000


def test_a_block_comment_that_the_window_cuts_hides_nothing(tmp_path: Path) -> None:
    body = CODE.replace("def weigh(items, scale):", "int weigh(items, scale) {").replace("#", "//")
    opened = index(tmp_path / "s", [f"/* weighs\n   things */\n{body}"], "C")
    answer = opened.ask(Query(f"   things */\n{body}", language="C"))
    assert any(match["kind"] == "exact" and match["span"][1] >= len(body) for match in answer["matches"])


def test_redacted_text_is_found_as_it_was_trained(tmp_path: Path) -> None:
    opened = index(tmp_path / "s", [CODE + "OWNER = '<EMAIL>'  # write to <NAME> with the whole of your questions\n"])
    assert opened.ask(Query("OWNER = '<EMAIL>'  # write to <NAME> with the whole of your questions"))["matches"]


def artifact(root: Path, kind: str, needs: tuple[Artifact, ...] = (), **details: object) -> Artifact:
    def work(output: ArtifactWriter) -> Outcome:
        output.write_text("file", str(details))
        output.write_text("data/part-00000.parquet", str(details.get("rows", kind)))
        return Outcome(details=dict(details))

    identity = {"kind": kind, "details": str(details), "inputs": [one.fingerprint for one in needs]}
    return produce(str(root), kind, kind, identity=identity, config={}, inputs=needs, work=work)


def test_an_index_of_another_corpus_is_refused_by_name(tmp_path: Path) -> None:
    corpus = artifact(tmp_path, Corpus.kind)
    model = artifact(tmp_path, Model.kind, (corpus,))
    check_index(Attribution(artifact(tmp_path, Attribution.kind, corpus=corpus.fingerprint)), model)
    other = Attribution(artifact(tmp_path, Attribution.kind, corpus="0123456789abcdef"))
    with pytest.raises(UserError, match=rf"indexes the corpus 0123456789abcdef, .* {corpus.fingerprint}"):
        check_index(other, model)


def test_an_index_of_another_corpus_with_the_same_rows_fits(tmp_path: Path) -> None:
    corpora = [artifact(tmp_path, Corpus.kind, rows=rows, card=card) for rows, card in (("a", 1), ("a", 2), ("b", 1))]
    model = artifact(tmp_path, Model.kind, (corpora[0],))
    indexes = [artifact(tmp_path, Attribution.kind, (one,), corpus=one.fingerprint) for one in corpora[1:]]
    fitting, other = map(Attribution, indexes)
    check_index(fitting, model)
    with pytest.raises(UserError, match="indexes the corpus"):
        check_index(other, model)
