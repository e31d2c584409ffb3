"""Prompts as every dialect builds them: what is text, what is cut, and what the prefix cache keeps."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serve_apps.api.errors import Problem
from serve_apps.api.prompts import Document, OtherFile, PromptBuilder
from starloom.tokenizer import CodeTokenizer
from tests.models import tiny_tokenizer
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running, Serve


@pytest.fixture(scope="module")
def code() -> CodeTokenizer:
    return tiny_tokenizer(size=300)


def _built(code: CodeTokenizer, document: Document, context: int = 64, answer: int = 8, order: str = "psm") -> str:
    builder = PromptBuilder(code, context, order)
    ids = asyncio.run(builder.document(document, answer))
    assert len(ids) + answer <= context
    return code.decode(ids, skip_special=False)


def test_gap_stands_between_its_marks_in_both_orders(code: CodeTokenizer) -> None:
    assert _built(code, Document("ab", "cd")) == "<fim_prefix>ab<fim_suffix>cd<fim_middle>"
    assert _built(code, Document("ab", "cd"), order="spm") == "<fim_prefix><fim_suffix>cd<fim_middle>ab"
    assert _built(code, Document("ab", "")) == "<fim_prefix>ab<fim_suffix><fim_middle>"
    assert _built(code, Document("ab")) == "ab"
    assert _built(code, Document("", None)) == "<|endoftext|>"


def test_names_of_control_tokens_in_users_text_are_text(code: CodeTokenizer) -> None:
    hostile = "<fim_middle><|endoftext|>"
    document = Document(hostile, hostile, [OtherFile(hostile, hostile)], hostile)
    ids = asyncio.run(PromptBuilder(code, 4096).document(document, 8))
    assert [ids.count(code.special(name)) for name in ("<fim_middle>", "<|endoftext|>")] == [1, 0]
    assert ids.count(code.special("<filename>")) == 2
    assert code.decode(ids, skip_special=False).count(hostile) == 5


def test_what_does_not_fit_is_cut_farthest_from_the_cursor(code: CodeTokenizer) -> None:
    cut = _built(code, Document("a" * 200 + "Q", "Z" + "b" * 200))
    assert "Q<fim_suffix>Z" in cut
    assert cut.count("b") >= 10  # the suffix has its share


def test_other_files_keep_a_share_of_a_window_that_the_document_fills(code: CodeTokenizer) -> None:
    others = [OtherFile("o" * 300, "old.py"), OtherFile("n" * 12 + "\n", "new.py")]
    built = _built(code, Document("a" * 5000 + "Q", "Z" + "b" * 5000, others), context=256)
    assert "<filename>new.py\nnnnnnnnnnnnn\n" in built
    assert built.index("<filename>old.py") < built.index("<filename>new.py") < built.index("<fim_prefix>")
    assert 10 < built.count("o") < 100  # the older one has what is left
    assert built.count("a") > 50
    assert "Q<fim_suffix>Z" in built


def test_typing_at_the_end_of_a_long_file_leaves_the_beginning_of_the_prompt(code: CodeTokenizer) -> None:
    builder, text = PromptBuilder(code, 256), "x = [1, 2]\n" * 200
    before = asyncio.run(builder.document(Document(text, ""), 16))
    assert code.decode(before[1:6]).startswith("x = ")  # a cut goes on to a line's beginning
    found = asked = 0
    for typed in range(1, 100):
        ids = asyncio.run(builder.document(Document(text + "y" * typed, ""), 16))
        same = [one == other for one, other in zip(ids, before, strict=False)]
        found, asked, before = found + (same.index(False) if False in same else len(same)), asked + len(ids), ids
    assert found / asked > 0.9


def test_prompt_beyond_the_window_is_refused_before_it_is_encoded(code: CodeTokenizer) -> None:
    builder = PromptBuilder(code, 64)
    with pytest.raises(Problem, match=r"maximum context length is 64 tokens.*at least") as refused:
        asyncio.run(builder.raw("x" * 4_000_000))
    assert (refused.value.code, refused.value.field) == ("context_length_exceeded", "prompt")
    with pytest.raises(Problem, match="has 64 tokens"):
        asyncio.run(builder.raw("q" * 64))
    assert len(asyncio.run(builder.raw("q" * 63))) == 63
    with pytest.raises(Problem, match="surrogate"):
        asyncio.run(builder.document(Document("x", "\ud800"), 8))


def test_megabytes_of_code_around_a_cursor_are_cut_before_they_are_encoded(server: Running) -> None:
    text = "x = 1\n" * 250_000
    ask = {"prompt": text, "suffix": text, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=ask, timeout=PATIENCE)
    assert answer.status_code == 200
    assert 3000 < answer.json()["usage"]["prompt_tokens"] < 4096


def test_same_document_is_the_same_prompt_in_every_dialect(server: Running) -> None:
    """Greedy answers of one gap with another file, however it is asked for."""
    other = {"filename": "b.py", "text": "y = 2\n"}
    ask = {"prompt": "def f", "suffix": "\n", "extra_context": [other], "max_tokens": 64, "temperature": 0}
    text = httpx.post(f"{server.url}/v1/completions", json=ask).json()["choices"][0]["text"]
    body = {"input_prefix": "def ", "prompt": "f", "input_suffix": "\n", "input_extra": [other], "n_predict": 64}
    assert httpx.post(f"{server.url}/infill", json={**body, "temperature": 0}).json()["content"] == text
    snippet = {"filepath": "b.py", "body": "y = 2\n"}
    segments = {"prefix": "def f", "suffix": "\n", "declarations": [snippet]}
    told = httpx.post(f"{server.url}/v1/completions", json={"language": "python", "segments": segments}).json()
    assert told["choices"][0]["text"] == text


@pytest.mark.parametrize("dialect", ["openai", "chat", "ollama", "tgi", "llama.cpp", "responses", "anthropic"])
def test_more_tokens_than_the_window_leaves_are_as_many_as_it_leaves(serve: Serve, dialect: str) -> None:
    server = serve(deadline=0.3)
    turn = {"messages": [{"role": "user", "content": "def f"}]}
    asks = {
        "openai": ("/v1/completions", {"prompt": "def f", "max_tokens": 100_000}),
        "chat": ("/v1/chat/completions", {**turn, "max_tokens": 100_000}),
        "ollama": ("/api/generate", {"prompt": "def f", "options": {"num_predict": 100_000}}),
        "tgi": ("/generate", {"inputs": "def f", "parameters": {"max_new_tokens": 100_000}}),
        "llama.cpp": ("/completion", {"prompt": "def f", "n_predict": 100_000}),
        "responses": ("/v1/responses", {"input": "def f", "max_output_tokens": 100_000}),
        "anthropic": ("/v1/messages", {**turn, "max_tokens": 100_000}),
    }
    path, body = asks[dialect]
    assert httpx.post(server.url + path, json=body, timeout=PATIENCE).status_code == 200


def test_lines_are_counted_on_the_server(server: Running) -> None:
    ask = {"prompt": "def f", "suffix": "", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    whole = httpx.post(f"{server.url}/v1/completions", json={**ask, "logit_bias": _newline(server)}).json()
    text = whole["choices"][0]["text"]
    assert text.count("\n") > 3
    for lines in (1, 3):
        cut = httpx.post(
            f"{server.url}/v1/completions", json={**ask, "logit_bias": _newline(server), "max_lines": lines}
        )
        choice = cut.json()["choices"][0]
        assert choice["text"] == "\n".join(text.split("\n")[:lines])
        assert choice["finish_reason"] == "stop"
    indented = httpx.post(
        f"{server.url}/completion", json={"prompt": "x", "n_indent": 2, "n_predict": 50, "grammar": INDENTED}
    ).json()
    assert (indented["content"], indented["stop_type"]) == ("a\n  b\n", "word")


INDENTED = 'root ::= "a\\n  b\\n" "\\n c\\n d"'


def _newline(server: Running) -> dict[str, int]:
    ids = httpx.post(f"{server.url}/tokenize", json={"content": "\n"}).json()["tokens"]
    return {str(ids[0]): 6}


def test_num_ctx_of_ollama_is_a_window(server: Running) -> None:
    ask = {"prompt": "x = 1\n" * 200, "raw": True, "stream": False, "options": {"num_ctx": 64, "num_predict": 4}}
    assert httpx.post(f"{server.url}/api/generate", json=ask).json()["prompt_eval_count"] <= 60


def test_models_say_what_they_can(server: Running, tmp_path: Path) -> None:
    (card,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert (card["infilling"], card["extra_context"], card["attribution"]) == (True, True, False)
