"""Unmodified Python clients against a server: ``python python_clients.py CLIENT URL`` prints what it was told.

Runs in an environment of its own (``make clients``). Each prints the greedy continuation of PROMPT as JSON, under the
name of the way by which it was asked for.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

PROMPT = "def f"
TOKENS = 12
TURNS = [{"role": "user", "content": PROMPT}]
Answers = dict[str, str]


def with_huggingface_hub(url: str) -> Answers:
    """Text generation as of TGI, whole and streamed, and chat with the name that it sends where none is given."""
    from huggingface_hub import InferenceClient

    client = InferenceClient(base_url=url)
    ask = {"max_new_tokens": TOKENS}
    chat = client.chat_completion(TURNS, max_tokens=TOKENS, temperature=0)
    pieces = client.chat_completion(TURNS, max_tokens=TOKENS, temperature=0, stream=True)
    return {
        "text": client.text_generation(PROMPT, **ask),
        "text streamed": "".join(client.text_generation(PROMPT, stream=True, **ask)),
        "text of details": client.text_generation(PROMPT, details=True, **ask).generated_text,
        "chat": chat.choices[0].message.content,
        "chat streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
    }


def with_ollama(url: str) -> Answers:
    """Generation and chat, whole and streamed; lists, shows."""
    import ollama

    client = ollama.Client(host=url)
    options = {"num_predict": TOKENS, "temperature": 0}
    name = client.list().models[0].model
    assert "insert" in client.show(name).capabilities
    assert client.ps().models[0].model == name
    ask = {"model": name, "options": options}
    client.generate(model=name)  # loads
    pieces = client.generate(prompt=PROMPT, stream=True, **ask)
    turns = client.chat(messages=TURNS, stream=True, **ask)
    return {
        "text": client.generate(prompt=PROMPT, **ask).response,
        "text streamed": "".join(piece.response for piece in pieces),
        "chat": client.chat(messages=TURNS, **ask).message.content,
        "chat streamed": "".join(piece.message.content for piece in turns),
    }


def with_litellm(url: str) -> Answers:
    """Three of its providers."""
    import litellm

    litellm.telemetry = False
    ask = {"max_tokens": TOKENS, "temperature": 0, "api_key": "none"}
    found = {}
    for way, model, base in (
        ("chat", "openai/tiny", f"{url}/v1"),
        ("chat of ollama", "ollama_chat/tiny", url),
    ):
        whole = litellm.completion(model=model, api_base=base, messages=TURNS, **ask)
        pieces = litellm.completion(model=model, api_base=base, messages=TURNS, stream=True, **ask)
        found[way] = whole.choices[0].message.content
        found[f"{way} streamed"] = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    # its providers for generation put turns into a prompt of their own
    told = litellm.completion(model="ollama/tiny", api_base=url, messages=TURNS, **ask)
    assert isinstance(told.choices[0].message.content, str)
    told = litellm.completion(model="huggingface/tgi", api_base=f"{url}/v1/chat/completions", messages=TURNS, **ask)
    found["chat of huggingface"] = told.choices[0].message.content
    text = litellm.text_completion(model="text-completion-openai/tiny", api_base=f"{url}/v1", prompt=PROMPT, **ask)
    found["text"] = text.choices[0].text
    try:
        litellm.completion(
            model="openai/tiny", api_base=f"{url}/v1", messages=[{"role": "user", "content": "x = 1\n" * 5000}], **ask
        )
    except litellm.ContextWindowExceededError:
        return found
    raise AssertionError("a prompt beyond the window is no ContextWindowExceededError")


def with_langchain(url: str) -> Answers:
    """Its OpenAI classes, and a structured output."""
    from langchain_openai import ChatOpenAI, OpenAI
    from pydantic import BaseModel, Field

    class Size(BaseModel):
        """A size."""

        size: int = Field(ge=0, le=99)

    ask = {"model": "tiny", "base_url": f"{url}/v1", "api_key": "none", "max_tokens": TOKENS, "temperature": 0}
    chat = ChatOpenAI(**ask)
    sized = ChatOpenAI(**{**ask, "max_tokens": 100}).with_structured_output(Size, method="json_schema")
    assert 0 <= sized.invoke(PROMPT).size <= 99
    return {
        "text": OpenAI(**ask).invoke(PROMPT),
        "text streamed": "".join(OpenAI(**ask).stream(PROMPT)),
        "chat": chat.invoke(PROMPT).content,
        "chat streamed": "".join(piece.content for piece in chat.stream(PROMPT)),
    }


def with_instructor(url: str) -> Answers:
    """An object of a class, by a JSON schema."""
    import instructor
    import openai
    from pydantic import BaseModel, ConfigDict, Field

    class Size(BaseModel):
        """A size, and nothing else: a model that knows nothing would go on with fields of its own."""

        model_config = ConfigDict(extra="forbid")
        size: int = Field(ge=0, le=99)

    own = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    client = instructor.from_openai(own, mode=instructor.Mode.JSON_SCHEMA)
    made = client.chat.completions.create(model="tiny", response_model=Size, messages=TURNS, max_tokens=100)
    assert 0 <= made.size <= 99
    return {}


def with_lm_eval(url: str) -> Answers:
    """A task of choices through `local-completions`: log-likelihoods by echo."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    here = Path(os.environ["LM_EVAL_TASK"])
    settings = f"base_url={url}/v1/completions,model=tiny,tokenizer={os.environ['TOKENIZER']},num_concurrent=1"
    found = lm_eval.simple_evaluate(
        "local-completions",
        model_args=settings,
        tasks=["likelier"],
        task_manager=TaskManager(include_path=str(here), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    (sample,) = found["samples"]["likelier"]
    return {"log-likelihoods": json.dumps([float(one[0]) for one in sample["filtered_resps"]])}


CLIENTS: dict[str, Callable[[str], Answers]] = {
    "huggingface_hub": with_huggingface_hub,
    "ollama": with_ollama,
    "litellm": with_litellm,
    "langchain": with_langchain,
    "instructor": with_instructor,
    "lm_eval": with_lm_eval,
}

if __name__ == "__main__":
    print(json.dumps(CLIENTS[sys.argv[1]](sys.argv[2])))
