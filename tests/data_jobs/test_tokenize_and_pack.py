import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_jobs import pack, train_tokenizer
from data_jobs.documents.rendering import DocumentConfig, Special, render, star_bucket
from data_jobs.pack import split_of, token_dtype
from data_jobs.train_tokenizer import sample
from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.kinds import Tokens
from starloom.step import run_step
from starloom.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, load_tokenizer
from starloom.tokens import TokenShard
from tests.data_jobs.corpora import artifact, text

pytestmark = pytest.mark.usefixtures("ray_cluster")
ODD = "if x == 12345:\n\n\t  return '<|endoftext|>'  # naïve 漢字 😀 it's <fim_prefix>\r\n   "
PLAIN = DocumentConfig(metadata_rate=0.0)


def corpus(root: Path, shards: int = 3, files: int = 12) -> Artifact:
    rows = [
        [
            {"content": ODD + text(100 * s + n), "repo_name": f"org/r{n}", "path": f"{s}/{n}.py", "stars": 10 * n}
            for n in range(files)
        ]
        for s in range(shards)
    ]
    return artifact(root, "corpus", rows)


def trained(root: Path, source: Artifact, vocabulary: int = 400) -> Artifact:
    config = train_tokenizer.TrainTokenizerConfig(vocabulary=vocabulary)
    return run_step(train_tokenizer.STEP, config, root=str(root), name="tokenizer", needs=[source])


def packed(root: Path, source: Artifact, tokenizer: Artifact, **settings: Any) -> Artifact:
    config = pack.PackConfig(**settings)
    return run_step(pack.STEP, config, root=str(root), name="tokens", needs=[source, tokenizer])


def shards_of(tokens: Artifact) -> dict[str, TokenShard]:
    details = tokens.manifest.details
    return {name: TokenShard(tokens.local() / name, details["dtype"]) for name in details["shards"]}


def test_trained_tokenizer_gives_the_special_tokens_the_first_ids_and_loads_in_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    made = trained(tmp_path, corpus(tmp_path))
    tokenizer = load_tokenizer(made.local())
    assert [tokenizer.special(token) for token in SPECIAL_TOKENS] == list(range(19))
    assert tokenizer.size == 400
    theirs = PreTrainedTokenizerFast.from_pretrained(made.local())
    assert theirs.eos_token == END_OF_TEXT
    assert theirs("def f(x): return 42")["input_ids"] == tokenizer.encode("def f(x): return 42")


def test_digits_stand_alone_and_text_survives_the_round_trip(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(trained(tmp_path, corpus(tmp_path)).local())
    pieces = [tokenizer.token_bytes[number] for number in tokenizer.encode("x12345")]
    assert pieces[-5:] == [b"1", b"2", b"3", b"4", b"5"]
    assert tokenizer.decode_bytes(tokenizer.encode(ODD)).decode() == ODD


def test_tokenizer_vocabulary_beyond_the_corpus_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocabulary = 60000: the corpus yields only"):
        trained(tmp_path, artifact(tmp_path, "corpus", [[{"content": "a b c"}]]), vocabulary=60_000)


def test_training_sample_takes_at_most_its_share_of_each_language(tmp_path: Path) -> None:
    from collections import Counter

    from data_jobs.train_tokenizer import sample

    rows = [
        [{"content": text(n), "language": "Python" if n % 10 else "Ada"} for n in range(s, s + 40)] for s in (0, 40)
    ]
    source = artifact(tmp_path, "corpus", rows)
    counts: Counter[str] = Counter()
    taken = list(sample(source, 10_000, counts))
    assert counts["Ada"] == 8
    longest = max(len(one) for one in taken)
    python_bytes = sum(len(one) for one in taken) - sum(len(row["content"]) for s in rows for row in s[::10])
    assert 10_000 <= python_bytes <= 10_000 + 2 * longest


def test_packed_documents_decode_to_the_files_and_ids_are_those_of_tokenizers(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    made = trained(tmp_path, source)
    tokens = packed(tmp_path, source, made, documents=PLAIN, heldout_share=0.3)
    tokenizer = load_tokenizer(made.local())
    end = tokenizer.special(END_OF_TEXT)
    found = []
    for shard in shards_of(tokens).values():
        for number in range(shard.documents):
            ids = shard.document(number)
            assert int(ids[-1]) == end
            assert end not in ids[:-1].tolist()
            content = tokenizer.decode_bytes(ids[:-1].tolist()).decode()
            assert tokenizer.encode(content) == ids[:-1].tolist()
            found.append(content)
    expected = [row["content"] for n in range(3) for row in source.read_table(f"data/part-{n:05d}.parquet").to_pylist()]
    assert sorted(found) == sorted(expected)


def test_heldout_repositories_share_no_file_with_the_training_shards(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    tokens = packed(tmp_path, source, trained(tmp_path, source), heldout_share=0.3)
    held = tokens.read_table("heldout/documents.parquet").to_pylist()
    repositories = {row["repo_name"] for row in held}
    assert 0 < len(repositories) < 12
    assert len(held) == 3 * len(repositories)
    shards = tokens.manifest.details["shards"]
    assert sum(s["documents"] for name, s in shards.items() if name.startswith("heldout/")) == len(held)
    assert sum(s["documents"] for s in shards.values()) == 36
    assert sum(s["languages"]["Python"] for s in shards.values()) == sum(s["tokens"] for s in shards.values())


def test_packing_that_was_begun_before_kinds_were_kept_goes_on(tmp_path: Path) -> None:
    source = corpus(tmp_path, 1)
    tokenizer = trained(tmp_path, source)
    made = packed(tmp_path, source, tokenizer, heldout_share=0.3)
    folder, parts, counts = (
        made.local(),
        made.read_table(Tokens.HELDOUT).drop_columns("kind"),
        made.manifest.details["shards"],
    )
    (folder / "manifest.json").unlink()
    (folder / Tokens.HELDOUT).unlink()
    (folder / ".work").mkdir()
    pq.write_table(parts, folder / ".work" / "part-00000.parquet")
    (folder / ".work" / "part-00000.parquet.json").write_text(json.dumps(counts))
    again = packed(tmp_path, source, tokenizer, heldout_share=0.3)
    assert again.folder == made.folder
    assert again.manifest.files == made.manifest.files
    assert len(Tokens(again).heldout_documents()) > 0


def test_packing_twice_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    made = trained(tmp_path, source)
    runs = [packed(tmp_path / name, source, made, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    sums = [{name: entry.sha256 for name, entry in run.manifest.files.items()} for run in runs]
    assert sums[0] == sums[1]
    assert sums[0] != sums[2]


def test_packing_goes_on_with_other_pattern_when_the_fast_route_disagrees(tmp_path: Path) -> None:
    """A tokenizer without the digit rule has other ids in the compiled loop: the slow route is taken, and said."""
    source = corpus(tmp_path)
    made = trained(tmp_path, source)
    content = json.loads((made.local() / "tokenizer.json").read_text())
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    merges = list(content["model"]["merges"])
    content["model"]["vocab"] = {**content["model"]["vocab"], "12": 400}
    content["model"]["merges"] = [["1", "2"], *merges]

    from starloom.config import Config
    from starloom.step import Outcome, Step

    def write(config: Config, context: Any) -> Outcome:
        context.output.write_text("tokenizer.json", json.dumps(content))
        return Outcome()

    other = run_step(Step(Config, write, "tokenizer"), Config(), root=str(tmp_path), name="other")
    tokens = packed(tmp_path, source, other, documents=PLAIN)
    assert tokens.manifest.details["route"] == "tokenizers"
    shard = shards_of(tokens)["train/part-00000"]
    assert 400 in shard.tokens


def test_too_big_vocabulary_for_the_dtype_is_refused() -> None:
    assert token_dtype("auto", 65_536) == "uint16"
    assert token_dtype("auto", 65_537) == "uint32"
    with pytest.raises(UserError, match=r"65537 ids do not fit"):
        token_dtype("uint16", 65_537)


def test_everything_held_out_is_refused(tmp_path: Path) -> None:
    source = artifact(tmp_path, "corpus", [[{"content": text(1, 600)}]])
    seed = next(seed for seed in range(100) if split_of("team/0-0", seed, 0.5) == "heldout")
    with pytest.raises(UserError, match="heldout_share"):
        packed(tmp_path, source, trained(tmp_path, source, 300), seed=seed, heldout_share=0.5)


def test_document_metadata_appears_at_its_rate_and_depends_on_the_id_alone() -> None:
    rows = [{"id": f"{n:x}", "repo_name": "o/r", "path": "p.py", "stars": 50, "content": "c"} for n in range(3000)]
    rendered = [render(row, 0, DocumentConfig()) for row in rows]
    for name in ("<reponame>", "<filename>", "<gh_stars>"):
        share = np.mean([Special(name) in pieces for pieces in rendered])
        assert share == pytest.approx(0.2, abs=0.03)
    assert rendered == [render(row, 0, DocumentConfig()) for row in rows]
    assert [star_bucket(n) for n in (0, 1, 10, 11, 1000, 1001)] == ["0", "1-10", "1-10", "10-100", "100-1000", "1000+"]


def test_groups_have_shards_of_their_own_and_hold_every_document(tmp_path: Path) -> None:
    rows = [[{"content": text(n), "language": ("Python", "C++")[n % 2]} for n in range(s, s + 8)] for s in (0, 8)]
    source = artifact(tmp_path, "corpus", rows)
    made = trained(tmp_path, source)
    tokens = packed(tmp_path, source, made, groups="language", heldout_share=0.0)
    shards = tokens.manifest.details["shards"]
    assert sorted(shards) == [f"train/{group}/part-0000{n}" for group in ("C%2B%2B", "Python") for n in (0, 1)]
    assert {name: list(counts["languages"]) for name, counts in shards.items() if "C%" in name} == {
        "train/C%2B%2B/part-00000": ["C++"],
        "train/C%2B%2B/part-00001": ["C++"],
    }
    assert sum(counts["documents"] for counts in shards.values()) == 16
    assert len(shards_of(tokens)["train/Python/part-00000"].document(0)) > 100


def test_repository_layout_packs_each_repository_as_one_document(tmp_path: Path) -> None:
    rows = [{"content": f"x{n} = {n}\n", "repo_name": f"o/{n // 3}", "path": f"{n}.py"} for n in range(300)]
    source = artifact(tmp_path, "corpus", [[*rows, {"content": text(1), "repo_name": "z/z"}]])
    config = train_tokenizer.TrainTokenizerConfig(vocabulary=300, extra_special_tokens=("<repo_name>", "<file_sep>"))
    made = run_step(train_tokenizer.STEP, config, root=str(tmp_path), name="tokenizer", needs=[source])
    whole = DocumentConfig(layout="repositories")
    tokens = packed(tmp_path, source, made, documents=whole, heldout_share=0.0)
    tokenizer = load_tokenizer(made.local())
    shard = shards_of(tokens)["train/part-00000"]
    assert shard.documents == 101
    documents = [tokenizer.decode(shard.document(n).tolist(), skip_special=False) for n in range(101)]
    assert all(document.endswith(END_OF_TEXT) for document in documents)
    assert sorted(document.count("<file_sep>") for document in documents) == [1, *[3] * 100]
    assert 30 < sum(document.startswith("<repo_name>o/") for document in documents) < 70
    counts = tokens.manifest.details["shards"]["train/part-00000"]
    assert counts["languages"] == {"Python": counts["tokens"]}


def test_repository_layout_without_its_tokens_is_refused_in_one_line(tmp_path: Path) -> None:
    source = corpus(tmp_path, 1)
    with pytest.raises(UserError, match="the tokenizer lacks <repo_name>; train it with extra_special_tokens"):
        packed(tmp_path, source, trained(tmp_path, source), documents=DocumentConfig(layout="repositories"))


def test_quota_of_a_language_is_spent_in_bytes(tmp_path: Path) -> None:
    rows = [{"content": "б" * 1000, "path": f"{n}.py"} for n in range(200)]  # two bytes each
    counts: Counter[str] = Counter()
    taken = list(sample(artifact(tmp_path, "corpus", [rows]), 100_000, counts))
    assert sum(len(text.encode()) for text in taken) == 100_000
    assert counts == {"Python": 50}
