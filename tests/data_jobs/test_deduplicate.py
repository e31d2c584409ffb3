from pathlib import Path
from typing import Any

import pytest

from data_jobs import deduplicate
from data_jobs.near_duplicates.kernel import jaccard, shingle_hashes
from starloom.artifact import Artifact
from starloom.records import Part, join_parts
from starloom.step import run_step
from tests.data_jobs.corpora import artifact, changed, text

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def dedup(root: Path, collected: Artifact, *earlier: Artifact, name: str = "duplicates", **settings: Any) -> Artifact:
    config = deduplicate.DeduplicateConfig(**settings)
    return run_step(deduplicate.STEP, config, root=str(root), name=name, needs=[collected, *earlier])


def dropped(decisions: Artifact) -> dict[tuple[int, int], str]:
    found = {}
    for number, shard in enumerate(decisions.files("decisions/")):
        for row in decisions.read_table(shard).to_pylist():
            found[number, row["row"]] = row["reason"]
    return found


def similarity(left: str, right: str) -> float:
    import numpy as np

    return float(jaccard(*(np.unique(shingle_hashes(one.encode(), 5)) for one in (left, right))))


def test_dedup_drops_exact_spaced_and_near_copies_each_with_its_reason(tmp_path: Path) -> None:
    base = text(1)
    rows = [
        [{"content": base, "repo_name": "a/a"}, {"content": text(2)}, {"content": base, "repo_name": "b/b"}],
        [{"content": base.replace(" ", "\t"), "repo_name": "c/c"}, {"content": changed(base, 3), "repo_name": "d/d"}],
        [{"content": changed(base, 60)}],
    ]
    result = dedup(tmp_path, artifact(tmp_path, "collected", rows))
    assert dropped(result) == {
        (0, 2): "exact_duplicate",
        (1, 0): "normalized_duplicate",
        (1, 1): "near_duplicate",
    }
    assert result.manifest.counts.rows_in == 6
    assert result.manifest.counts.rows_out == 3


ZH = [
    "# 安装指南\n\n本文介绍如何在服务器上安装和配置该软件。首先下载安装包,然后运行安装程序。完成后请检查日志文件。\n",
    "# 菜谱大全\n\n红烧肉的做法如下:先把五花肉切成小块,放入锅中煮熟。然后加入酱油和糖,小火炖一个小时即可。\n",
]
BSD = """/* Copyright (c) 2009-2012, Somebody <somebody at gmail dot com>
 * All rights reserved.
 *
 * Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
 * following conditions are met: Redistributions of source code must retain the above copyright notice, this list of
 * conditions and the following disclaimer. THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS "AS IS" AND ANY EXPRESS
 * OR IMPLIED WARRANTIES ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT OWNER BE LIABLE FOR ANY DAMAGES.
 */

"""
HEADERS = [
    "#ifndef __RAND_H\n#define __RAND_H\nint32_t redisLrand48();\nvoid redisSrand48(int32_t seedval);\n#endif\n",
    "#ifndef SLOW_H\n#define SLOW_H\nvoid slowlogInit(void);\nvoid slowlogPush(client *c, long long us);\n#endif\n",
]


def test_unrelated_texts_without_blanks_are_no_duplicates_and_alike_ones_are(tmp_path: Path) -> None:
    long = ZH[0] + "更多内容请参考官方文档中的相关章节,其中包括常见问题和故障排除方法。\n"
    rows = [[{"content": ZH[0], "path": "a.md"}, {"content": ZH[1], "path": "b.md"}]]
    assert dropped(dedup(tmp_path / "a", artifact(tmp_path / "a", "collected", rows))) == {}
    rows = [[{"content": long, "path": "a.md"}, {"content": long.replace("日志", "记录"), "path": "b.md"}]]
    assert dropped(dedup(tmp_path / "b", artifact(tmp_path / "b", "collected", rows))) == {(0, 1): "near_duplicate"}


def test_licence_header_makes_no_files_alike_and_hides_no_copies(tmp_path: Path) -> None:
    rows = [[{"content": BSD + header} for header in HEADERS]]
    assert dropped(dedup(tmp_path / "a", artifact(tmp_path / "a", "collected", rows))) == {}
    rows = [
        [{"content": BSD + text(1), "path": "a.c"}, {"content": BSD.replace("2009", "1999") + text(1), "path": "b.c"}]
    ]
    assert dropped(dedup(tmp_path / "b", artifact(tmp_path / "b", "collected", rows))) == {(0, 1): "near_duplicate"}


def test_kinds_of_record_are_deduplicated_apart(tmp_path: Path) -> None:
    parts = join_parts([Part("before", ""), Part("message", "Add it"), Part("after", text(1))])
    rows = [
        [
            {"content": text(1), "path": "a.py"},
            {"content": parts, "kind": "commit", "path": "a.py@1"},
            {"content": parts, "kind": "commit", "path": "a.py@2"},
            {"content": text(1), "kind": "notebook", "path": "a.ipynb"},
        ]
    ]
    result = dedup(tmp_path, artifact(tmp_path, "collected", rows))
    assert dropped(result) == {(0, 2): "exact_duplicate"}


def test_operators_tell_files_apart_and_normalized_means_white_space_alone(tmp_path: Path) -> None:
    plus = "\n".join(f"y_{n} = a_{n} + b_{n} * c_{n}" for n in range(40)) + "\n"
    quoted = "\n".join(f"call_{n}('x_{n}', y_{n}, z_{n})" for n in range(40)) + "\n"
    rows = [
        [
            {"content": plus, "path": "a.py"},
            {"content": plus.replace("+", "-"), "path": "b.py"},
            {"content": quoted, "path": "c.py"},
            {"content": quoted.replace("'", '"'), "path": "d.py"},
            {"content": quoted.replace("\n", "\n\n"), "path": "e.py"},
        ]
    ]
    result = dedup(tmp_path, artifact(tmp_path, "collected", rows))
    assert dropped(result) == {(0, 3): "near_duplicate", (0, 4): "normalized_duplicate"}


def test_dedup_looks_only_at_rows_that_earlier_decisions_left(tmp_path: Path) -> None:
    base = text(1)
    rows = [[{"content": base, "repo_name": "a/a"}, {"content": base, "repo_name": "b/b"}], [{"content": base}]]
    collected = artifact(tmp_path, "collected", rows)
    first = dedup(tmp_path, collected, name="first")
    again = dedup(tmp_path, collected, first, name="second")
    assert len(dropped(first)) == 2
    assert dropped(again) == {}


@pytest.mark.parametrize(
    ("winner", "other"),
    [
        ({"licenses": ["MIT"], "stars": 0}, {"licenses": ["GPL-3.0-only"], "stars": 900}),
        ({"licenses": ["MIT"], "stars": 5}, {"licenses": ["MIT"], "stars": 4}),
        ({"licenses": [], "stars": 0}, {"licenses": ["GPL-3.0-only"], "stars": 0}),
    ],
)
def test_dedup_keeps_the_permissive_then_the_starred_file(
    tmp_path: Path, winner: dict[str, Any], other: dict[str, Any]
) -> None:
    rows = [[{"content": text(1), "path": "a", **other}, {"content": text(1), "path": "b", **winner}]]
    assert dropped(dedup(tmp_path, artifact(tmp_path, "collected", rows))) == {(0, 0): "exact_duplicate"}


def test_short_files_are_never_near_duplicates(tmp_path: Path) -> None:
    contents = ["import a\n", "import b\n", "import  a\n", "", "x = 1\n", "y = 2\n"]
    rows = [[{"content": content} for content in contents]]
    assert dropped(dedup(tmp_path, artifact(tmp_path, "collected", rows))) == {(0, 2): "normalized_duplicate"}


@pytest.mark.parametrize("content", ["", "word " * 400])
def test_all_files_equal_keeps_one(tmp_path: Path, content: str) -> None:
    rows = [[{"content": content} for _ in range(150)], [{"content": content} for _ in range(150)]]
    result = dedup(tmp_path, artifact(tmp_path, "collected", rows))
    assert result.manifest.counts.rows_out == 1
    assert set(dropped(result).values()) == {"exact_duplicate"}


def test_corpus_of_one_file_keeps_it(tmp_path: Path) -> None:
    result = dedup(tmp_path, artifact(tmp_path, "collected", [[{"content": text(1)}]]))
    assert dropped(result) == {}
    assert result.manifest.counts.rows_out == 1


def test_removed_pairs_are_found_and_are_all_within_the_threshold(tmp_path: Path) -> None:
    originals = [text(seed, 300) for seed in range(40)]
    contents = [
        copy
        for n, original in enumerate(originals)
        for copy in (original, *(changed(original, 2 + 7 * k, seed=100 * n + k) for k in range(5)))
    ]
    rows = [[{"content": content} for content in contents[start::3]] for start in range(3)]
    result = dedup(tmp_path, artifact(tmp_path, "collected", rows), threshold=0.7)
    flat = {f"{s}-{n}.py": row["content"] for s, shard in enumerate(rows) for n, row in enumerate(shard)}
    clusters = result.read_table("clusters.parquet").to_pylist()
    cluster_of = {row["path"]: row["cluster"] for row in clusters}
    for row in clusters:
        assert row["jaccard"] == pytest.approx(similarity(flat[row["path"]], flat[row["survivor_path"]]), abs=1e-6)
        assert row["kept"] or similarity(flat[row["path"]], flat[row["via_path"]]) >= 0.7
    paths = sorted(flat)
    similar = [(a, b) for i, a in enumerate(paths) for b in paths[i + 1 :] if similarity(flat[a], flat[b]) >= 0.7]
    assert len(similar) > 100
    found = [pair for pair in similar if pair[0] in cluster_of and cluster_of[pair[0]] == cluster_of.get(pair[1])]
    assert len(found) >= 0.99 * len(similar)


def test_strict_mode_drops_only_files_close_to_the_kept_one(tmp_path: Path) -> None:
    base = text(5, 600)
    chain = [base]
    for n in range(6):
        chain.append(changed(chain[-1], 25, seed=n))
    collected = artifact(tmp_path, "collected", [[{"content": content} for content in chain]])
    loose = dedup(tmp_path, collected, name="loose")
    strict = dedup(tmp_path, collected, name="strict", strict=True)
    closeness = strict.read_table("clusters.parquet")["jaccard"].to_pylist()
    assert min(closeness) >= 0.7
    assert min(loose.read_table("clusters.parquet")["jaccard"].to_pylist()) < 0.7
    assert strict.manifest.counts.rows_out > loose.manifest.counts.rows_out


def test_skewed_corpus_with_a_third_in_one_bucket_keeps_one_of_it(tmp_path: Path) -> None:
    base = text(9)
    copies = [{"content": changed(base, 1, seed=n)} for n in range(100)]
    others = [{"content": text(1000 + n)} for n in range(200)]
    result = dedup(tmp_path, artifact(tmp_path, "collected", [copies + others[:100], others[100:]]))
    assert result.manifest.counts.rows_out == 201
    assert result.manifest.details["largest_cluster"] == 100


def test_decisions_are_the_same_bytes_whatever_the_task_size(tmp_path: Path) -> None:
    base = text(3)
    rows = [[{"content": changed(base, 1 + n % 4, seed=n)} for n in range(20)] for _ in range(3)]
    collected = artifact(tmp_path / "a", "collected", rows)
    one = dedup(tmp_path / "a", collected)
    other = dedup(tmp_path / "b", collected, edges_per_task=7)
    assert one.fingerprint == other.fingerprint
    assert {n: e.sha256 for n, e in one.manifest.files.items()} == {
        n: e.sha256 for n, e in other.manifest.files.items()
    }


def test_report_counts_losses_and_warns_of_a_source_that_loses_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = text(4)
    copies = [{"content": base, "source": "copies", "language": "Go", "repo_name": f"r/{n}"} for n in range(5)]
    others = [{"content": text(50 + n), "source": "fine"} for n in range(5)]
    result = dedup(tmp_path, artifact(tmp_path, "collected", [copies, others]))
    report = result.read_json("duplicates.json")
    assert report["cluster_sizes"] == {"5": 1}
    assert report["sources"] == {"copies": {"files": 5, "dropped": 4}, "fine": {"files": 5, "dropped": 0}}
    assert report["languages"] == {"Go": {"files": 5, "dropped": 4}, "Python": {"files": 5, "dropped": 0}}
    assert report["largest"][0]["survivor"].startswith("r/0/")
    assert len(report["alarms"]) == 1
    assert "warning: source copies loses 4 of 5" in capsys.readouterr().out


def test_dedup_language_rules_change_threshold_and_ngram_of_that_language_alone(tmp_path: Path) -> None:
    near = changed(text(1), 6)
    assert 0.8 < similarity(text(1), near) < 0.95
    five_words = "one two three four five"
    rows = [
        [{"content": one, "language": language, "repo_name": f"r/{n}"} for n, one in enumerate((text(1), near))]
        + [{"content": five_words + end, "language": language, "repo_name": f"s/{end}"} for end in ("", " six seven")]
        for language in ("JSON", "Python")
    ]
    rows[1] = [{**row, "content": row["content"].replace("e", "y")} for row in rows[1]]
    collected = artifact(tmp_path, "collected", rows)
    assert set(dropped(dedup(tmp_path, collected, name="same"))) == {(0, 1), (1, 1)}
    strict = {"JSON": {"threshold": 0.95}, "Python": {"ngram": 1}}
    assert set(dropped(dedup(tmp_path, collected, name="rules", languages=strict, threshold=0.7))) == {(1, 1), (1, 3)}
