"""Records with parts: what the collector writes, every later reader reads."""

from collections import Counter
from pathlib import Path

import pytest

from data_jobs.train_tokenizer import sample
from serve_apps.evaluation.heldout import bits, measure, text_of
from starloom.kinds import Collected, Corpus, HeldoutDocument, Tokenizer, Tokens
from starloom.records import Commit, join_commit, kind_of, split_commit
from starloom.tokenizer import load_tokenizer
from starloom.tokens import TokenShard
from tests.contracts.conftest import REQUESTS, Run
from tests.models import write_tiny_model
from train_jobs.finetuning.conversations import Tally, from_commits

pytestmark = pytest.mark.slow
SEPARATORS = ("\x1e", "\x1f")


def test_every_kind_is_in_the_corpus(run: Run) -> None:
    corpus = Corpus(run.made["corpus"])
    kinds = Counter(kind for shard in corpus.shards() for kind in corpus.table(shard, ["kind"])["kind"].to_pylist())
    assert set(kinds) == {"file", "commit", "issue", "notebook"}


def test_commits_that_the_collector_wrote_become_instructions(run: Run) -> None:
    tally = Tally()
    dialogues = list(from_commits(Corpus(run.made["corpus"]), tally))
    asked = {dialogue.messages[0].content.split("\n")[0] for dialogue in dialogues}
    assert asked == set(REQUESTS)
    assert (tally.kept, dict(tally.dropped)) == (len(REQUESTS), {"message_is_no_request": 1})
    assert all("```\n" in dialogue.messages[1].content for dialogue in dialogues)


def test_kind_is_told_by_the_structure_that_the_collector_wrote(run: Run) -> None:
    collected = Collected(run.made["collected"])
    for shard in collected.shards():
        for row in collected.table(shard, ["kind", "content"]).to_pylist():
            assert kind_of(row["content"]) == row["kind"]


def test_tokenizer_is_trained_on_text_without_separators(run: Run) -> None:
    texts = list(sample(run.made["corpus"], 10**9, Counter()))
    assert any("Add the first values" in text for text in texts)
    assert not any(mark in text for text in texts for mark in SEPARATORS)


def test_heldout_documents_are_those_that_training_would_see(run: Run) -> None:
    tokens, tokenizer = Tokens(run.made["tokens"]), load_tokenizer(Tokenizer(run.made["tokenizer"]).path())
    shards = [TokenShard(Path(stem), tokens.dtype) for stem in tokens.stems("heldout")]
    packed = [
        tokenizer.decode(shard.document(number).tolist(), skip_special=True)
        for shard in shards
        for number in range(shard.documents)
    ]
    documents = tokens.heldout_documents()
    assert {document.kind for document in documents} == {"file", "notebook", "commit"}
    for document in documents:
        text = text_of(document)
        assert not any(mark in text for mark in SEPARATORS)
        # files may have their names before them in training
        assert any(seen == text if document.kind != "file" else seen.endswith(text) for seen in packed)


def test_heldout_files_with_and_without_a_language_are_measured_as_training_sees_them(run: Run, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(Tokenizer(run.made["tokenizer"]).path())
    folder = write_tiny_model(tmp_path / "model", tokenizer)
    content = join_commit(Commit("x = 1\n", "Make x two", "x = 2\n"))
    commit = HeldoutDocument("a/b", "x.py@c0ffee", None, content, "commit")
    documents = [HeldoutDocument("a/b", "x.py", "Python", "x = 1\n"), commit]
    found = measure(folder, documents)
    assert list(found["languages"]) == ["", "Python"]  # type: ignore[call-overload]
    assert found["bytes"] == len("x = 1\nx = 1\nMake x twox = 2\n")
    as_text = HeldoutDocument("a/b", "x", None, text_of(commit))
    assert bits(folder, [commit])[0] > bits(folder, [as_text])[0]  # the control tokens cost something too


def test_commit_survives_the_round_trip_and_nothing_else_is_one() -> None:
    commit = Commit("a\n", "Change a", "b\n")
    assert split_commit(join_commit(commit)) == commit
    with pytest.raises(ValueError, match="no parts"):
        split_commit("<commit_before>a<commit_msg>m<commit_after>b")
