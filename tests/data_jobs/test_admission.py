"""What comes in: encodings, notebooks, records that are not what they say, values that no table can hold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_jobs.admission.encodings import NotTextError, decode
from data_jobs.admission.rules import Admission, Record
from data_jobs.collect import read_unit
from data_jobs.languages import load_languages
from data_jobs.sources.entries import Item, Limits, Refusal
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom.records import Part, join_parts, split_parts
from tests.data_jobs import source_trees as trees

ADMISSION = Admission(languages=load_languages(), limits=Limits(1 << 16, 1 << 20))


def admitted(path: str, content: bytes | str, **more: Any) -> list[Record | Refusal]:
    return list(ADMISSION.admit(Item("o/r", path, content, **more)))


def reason(path: str, content: bytes | str, **more: Any) -> str:
    (found,) = admitted(path, content, **more)
    return found.reason if isinstance(found, Refusal) else "admitted"


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("#!/usr/bin/env python3\nx = 1\n", "utf-8-sig", "utf-8"),
        ("x = 'größer'\n", "utf-16", "utf-16"),
        ("// plain\nint x;\n", "utf-16-le", "utf-16"),
        ("x = 1\n", "utf-32", "utf-32"),
        ("/* Größe des Puffers, höchstens */\nint size = 10;\n", "latin-1", "cp1252"),
        ("// It’s a “quoted” comment – really…\nint x;\n", "cp1252", "cp1252"),
        ("# 10 µs ± 5 °C\nx = 1\n", "latin-1", "cp1252"),
        ("x = 'é'\n", "latin-1", "cp1252"),
        ("# Vérifie que l’élément est déjà présent à côté du tableau\nx = 1\n", "cp1252", "cp1252"),
        ("// 日本語のコメントです。変数を初期化する。\nint x;\n", "shift_jis", "cp932"),
        ('print("こんにちは、世界")\n', "shift_jis", "cp932"),
        ("// 日本語のコメントです。変数を初期化する。\nint x;\n", "euc_jp", "euc_jp"),
        ("// 这是一个中文注释,用于初始化变量\nint x;\n", "gbk", "gb18030"),
        ("int a = 0; //变量a的值\nint b; //循环计数\n", "gbk", "gb18030"),
        ("// 這是一個中文註解,用於初始化變數\nint x;\n", "big5", "big5"),
        ("// 이것은 한국어 주석입니다. 변수를 초기화한다.\nint x;\n", "euc_kr", "cp949"),
        ("// Это русский комментарий, инициализация переменной\nint x;\n", "cp1251", "cp1251"),
        ("// Это русский комментарий, инициализация переменной\nint x;\n", "koi8_r", "koi8_r"),
    ],
)
def test_text_comes_in_from_the_encoding_that_it_is_in(text: str, encoding: str, told: str) -> None:
    found = decode(text.encode(encoding))
    assert (found.content, found.encoding) == (text, told)
    (row,) = admitted("a.py", text.encode(encoding))
    assert isinstance(row, dict)
    assert (row["content"], row["encoding"]) == (text, told)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bytes(range(1, 256)) * 20, "unknown_encoding"),
        (b"\x7fELF\x02\x01\x01\0\0\0rest", "binary"),
        ("한글".encode("euc_kr"), "unknown_encoding"),  # common Chinese in another encoding
        (b"\xff\xfea\0\0", "not_text"),
        (b"\xff\xfe\0\xd8a\0", "not_text"),
        (b"\xef\xbb\xbf", "empty"),
        (b"", "empty"),
    ],
)
def test_bytes_of_which_nothing_is_sure_are_refused(content: bytes, why: str) -> None:
    assert reason("a.c", content) == why


def test_encoding_that_the_source_names_is_used_where_it_can_be() -> None:
    text = "// Değişken adı güncellendi\n"
    with pytest.raises(NotTextError):
        decode(text.encode("cp1254"))
    assert decode(text.encode("cp1254"), "windows-1254").content == text
    assert reason("a.c", text.encode("cp1254"), encoding="no-such") == "unknown_encoding"
    assert reason("a.c", text.encode("cp1254"), encoding="base64") == "unknown_encoding"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"content": "x = '\ud83d'\n"}, "not_utf8"),
        ({"content": "x\0y"}, "binary"),
        ({"path": "a\ud800.py"}, "path_not_utf8"),
        ({"repo_name": "o/\udfff"}, "not_utf8"),
        ({"commit": "\ud800"}, "not_utf8"),
        ({"kind": "issue"}, "not_its_kind"),
        ({"kind": "commit", "content": join_parts([Part("before", "a"), Part("after", "b")])}, "not_its_kind"),
        ({"kind": "notebook", "content": join_parts([Part("before", "a")])}, "not_its_kind"),
        ({"kind": "banana"}, "unknown_kind"),
        ({"stars": 1e30}, "invalid_value"),
        ({"stars": float("inf")}, "invalid_value"),
        ({"stars": "many"}, "invalid_value"),
        ({"content": None}, "no_content"),
        ({"content": ["x"]}, "not_text"),
        ({"content": ""}, "empty"),
        ({"language": "Klingon"}, "unknown_language"),
    ],
)
def test_odd_record_of_a_table_is_one_refusal_and_the_next_comes_in(
    tmp_path: Path, values: dict[str, Any], why: str
) -> None:
    plain = {"content": "x = 1\n", "path": "b.py", "repo_name": "o/r", "language": "python", "licenses": "mit"}
    path = trees.write_json_lines(tmp_path / "a.jsonl", [plain | {"path": "a.py"} | values, plain])
    (unit,) = trees.units_of(JsonLinesSource(path=str(path), use_language=True), tmp_path)
    odd, good = list(read_unit(unit, ADMISSION))
    assert isinstance(odd, Refusal)
    assert odd.reason == why
    str(odd).encode()  # whatever it is named, it can be written down
    assert isinstance(good, dict)
    assert (good["language"], good["licenses"]) == ("Python", ["MIT"])


def test_row_of_parquet_whose_text_is_no_utf8_is_one_refusal(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\x03\0\0\0\x09\0\0\0"), pa.py_buffer(b"a\xffbx = 1\n")]
    )
    pq.write_table(pa.table({"content": content, "path": ["a.py", "b.py"]}), tmp_path / "a.parquet")
    (unit,) = trees.units_of(ParquetSource(path=str(tmp_path / "a.parquet")), tmp_path)
    bad, good = list(read_unit(unit, ADMISSION))
    assert isinstance(bad, Refusal)
    assert bad.reason == "unreadable_row"
    assert isinstance(good, dict)


def notebook(cells: Sequence[dict[str, Any]], **metadata: Any) -> str:
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4})


def parts_of(text: str) -> list[tuple[str, str]]:
    (row,) = admitted("a.ipynb", text)
    assert isinstance(row, dict), row
    return [(part.role, part.text) for part in split_parts(row["content"])]


def test_outputs_of_a_notebook_are_cut_before_its_size_is_judged() -> None:
    image = {"output_type": "display_data", "data": {"image/png": "A" * 500_000, "text/plain": "<Figure>"}}
    text = notebook(
        [
            {"cell_type": "markdown", "source": "A plot."},
            {"cell_type": "code", "source": "plot()", "outputs": [image]},
        ]
    )
    assert len(text) > ADMISSION.limits.file
    assert parts_of(text) == [("text", "A plot."), ("code", "plot()"), ("output", "<Figure>")]
    long = notebook([{"cell_type": "markdown", "source": "b"}, {"cell_type": "code", "source": "x = 1\n" * 20_000}])
    assert reason("a.ipynb", long) == "too_large"


def test_notebook_of_version_3_keeps_the_language_of_its_cells() -> None:
    cells = [
        {"cell_type": "markdown", "source": "A model."},
        {"cell_type": "code", "language": "julia", "input": ["x = 1\n", "y = 2"], "outputs": None},
    ]
    text = json.dumps({"worksheets": [{"cells": cells}, {"cells": None}], "metadata": {"name": ""}, "nbformat": 3})
    (row,) = admitted("a.ipynb", text)
    assert isinstance(row, dict)
    assert row["language"] == "Julia"


def test_cells_in_another_language_are_marked() -> None:
    cells = [
        {"cell_type": "markdown", "source": "Get it first."},
        {"cell_type": "code", "source": "ls", "metadata": {"vscode": {"languageId": "bash"}}},
        {"cell_type": "code", "source": "%%sql\nselect 1"},
        {"cell_type": "code", "source": "x = 1", "metadata": None},
    ]
    text = notebook(cells, kernelspec={"language": "python"})
    assert parts_of(text)[1] == ("code", "%%bash\nls\n%%sql\nselect 1\nx = 1")
    script = Admission(languages=load_languages(), limits=Limits(), notebooks="script")
    (row,) = script.admit(Item("o/r", "a.ipynb", text))
    assert isinstance(row, dict)
    assert '# %% language="bash"\n# %%bash\n# ls\n' in row["content"]
    assert row["content"].endswith("# %%\nx = 1\n")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"cells": null}',
        '{"cells": [null, 7]}',
        '{"worksheets": [null]}',
        '{"cells": [{"cell_type": "code", "source": 7, "outputs": [null, {"data": 5}, {"text": [null]}]}]}',
        '{"cells": [{"cell_type": "code", "source": "\\ud83d"}]}',
        '{"cells": ' + "[" * 100_000,
        '{"cells": [], "nbformat": 1e999}',
    ],
)
def test_damaged_notebook_is_one_refusal(text: str) -> None:
    (found,) = admitted("a.ipynb", text)
    assert isinstance(found, Refusal)
    assert found.reason in ("not_a_notebook", "empty_notebook", "not_utf8")


def test_selection_of_languages_leaves_the_others_out_by_name() -> None:
    languages = load_languages()
    chosen = Admission(languages=languages, limits=Limits(), selection=languages.selected("starcoder"))
    (found,) = chosen.admit(Item("o/r", "a.swift", "let x = 1\n"))
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == ("language_not_selected", "Swift")
    assert reason("a.swift", "let x = 1\n") == "admitted"
