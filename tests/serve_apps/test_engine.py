"""The engine against transformers' generate, under mixtures; sampling, scores, deadlines, fair shares, memory."""

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPTBigCodeForCausalLM

from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.engine.native.runner import has_bfloat16
from serve_apps.engine.request import Event, Overloaded, Request, Sampling, Stopping
from starloom.errors import UserError
from starloom.model.folder import read_model
from starloom.tokenizer import load_tokenizer
from tests.models import tiny_tokenizer, write_tiny_model
from tests.patience import PATIENCE

GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_end=True)
ENDLESS = Sampling(max_tokens=100, temperature=0.0, ignore_end=True)
Make = Callable[..., LocalEngine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    return write_tiny_model(path / "m", tiny_tokenizer(), layers=3, vocabulary=300)


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made = []

    def make(**settings: object) -> LocalEngine:
        sizes = {"cache_tokens": 512, "batch": 4, "prefill_chunk": 17, "queue": 40, **settings}
        made.append(LocalEngine(read_model(folder), load_tokenizer(folder), EngineConfig.model_validate(sizes)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def _start(engine: LocalEngine, prompt: list[int], sampling: Sampling, **more: object) -> tuple[Request, queue.Queue]:
    events: queue.Queue[Event] = queue.Queue()
    request = Request(prompt, sampling, events.put, **more)  # type: ignore[arg-type]
    engine.submit(request)
    return request, events


def _events(events: queue.Queue[Event]) -> list[Event]:
    found = [events.get(timeout=PATIENCE)]
    while not found[-1].finish:
        found.append(events.get(timeout=PATIENCE))
    return found


def _tokens(events: queue.Queue[Event]) -> list[int]:
    return [event.scored.token for event in _events(events) if event.scored]


@pytest.mark.parametrize(
    "settings",
    [
        {"kernels": "native"},
        {"kernels": "native", "drafts": 0},
        {"kernels": "native", "threads": 1},
        {"kernels": "torch"},
    ],
    ids=["native", "no drafts", "one thread", "torch"],
)
def test_greedy_under_mixture_and_cancellation_equals_transformers(folder: Path, make: Make, settings: dict) -> None:
    engine = make(**settings)
    theirs = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    shared = torch.randint(20, 280, (30,)).tolist()
    prompts = [shared[: 5 + n] + torch.randint(20, 280, (3 * n + 1,)).tolist() for n in range(12)]
    for _ in range(2):  # the second time most of each prompt is found in the cache
        started = [_start(engine, prompt, GREEDY) for prompt in prompts]
        started[3][0].cancel()
        for number, (prompt, (_, events)) in enumerate(zip(prompts, started, strict=True)):
            ours = _tokens(events)
            wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None)
            expected = wanted[0, len(prompt) :].tolist()
            assert ours == (expected[: len(ours)] if number == 3 else expected)
    assert engine.free_blocks == engine.blocks == 32


def test_drafts_hold_where_the_answer_repeats_itself_and_change_nothing(folder: Path) -> None:
    answers = []
    for drafts in (10, 0):
        model = read_model(folder)
        with torch.no_grad():  # only the last token counts: the answer soon goes in circles
            model.transformer.wpe.weight.zero_()
            for block in model.transformer.h:
                block.attn.c_proj.weight.zero_()
        config = EngineConfig(cache_tokens=512, drafts=drafts, kernels="native")
        engine = LocalEngine(model, load_tokenizer(folder), config)
        answers.append(_tokens(_start(engine, [30, 31, 32, 33], ENDLESS)[1]))
        engine.close()
        assert engine.counters.generated == 100
        assert engine.counters.steps < 60 if drafts else engine.counters.steps == 100
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_requests_that_are_set_aside_for_others_answer_as_if_alone(make: Make, kernels: str) -> None:
    """Ten answers of up to 100 tokens in a cache of 160: blocks are taken as tokens come, and given to older ones."""
    alone, engine = make(kernels=kernels), make(kernels=kernels, cache_tokens=160, batch=10)
    rng = np.random.default_rng(1)
    jobs = [
        (
            [int(token) for token in rng.integers(20, 280, size)],
            Sampling(max_tokens=100, temperature=temperature, seed=7, ignore_end=True, prompt_logprobs=scored),
        )
        for size, temperature, scored in [(3, 0.0, False), (20, 0.9, False), (5, 1.0, True), (12, 0.0, False)] * 3
    ]
    expected = [_events(_start(alone, *job)[1]) for job in jobs]
    waiting = [_start(engine, *job) for job in jobs]
    gone = _start(engine, [5] * 20, ENDLESS)[0]
    time.sleep(0.05)
    gone.cancel()
    for (_, events), wanted in zip(waiting, expected, strict=True):
        found = _events(events)
        assert [one.scored and one.scored.token for one in found] == [one.scored and one.scored.token for one in wanted]
        if kernels == "native":  # to the bit
            assert [one.scored for one in found] == [one.scored for one in wanted]
            assert [one.prompt for one in found if one.prompt] == [one.prompt for one in wanted if one.prompt]
        assert "".join(one.text for one in found) == "".join(one.text for one in wanted)
    assert engine.counters.set_aside > 0
    assert engine.free_blocks == engine.blocks


def test_short_answers_to_long_wishes_run_together(make: Make) -> None:
    """Four requests that might fill a cache each, but do not: all run at once."""
    engine = make(cache_tokens=128, batch=4)
    stop = Sampling(max_tokens=100, temperature=0.0, min_tokens=20, bias=((0, 100.0),))
    waiting = [_start(engine, [30 + n, 31], stop)[1] for n in range(4)]
    assert [len(_tokens(events)) for events in waiting] == [21] * 4
    assert engine.counters.steps < 60
    assert engine.counters.set_aside == 0


def test_bfloat16_weights_say_nearly_the_same_in_any_company(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", tiny_tokenizer(), layers=3, vocabulary=300, hidden=64)
    engines = [
        LocalEngine(
            read_model(path),
            load_tokenizer(path),
            EngineConfig.model_validate({"weights": weights, "cache_tokens": 512, "threads": threads}),
        )
        for weights, threads in (("float32", 2), ("auto" if has_bfloat16() else "bfloat16", 2), ("bfloat16", 1))
    ]
    exact, best, other = engines
    assert (exact.precision, best.precision) == ("float32", "bfloat16")
    sampling = Sampling(max_tokens=40, temperature=0.7, seed=3, ignore_end=True, top_logprobs=3)
    alone = _events(_start(other, [30, 31, 32], sampling)[1])
    crowd = [_start(best, [40 + n, 41, 42, 43], replace(sampling, seed=n))[1] for n in range(9)]
    found = _events(_start(best, [30, 31, 32], sampling)[1])
    assert [one.scored for one in found] == [one.scored for one in alone]  # to the bit
    prompt, scoring = list(range(30, 90)), Sampling(max_tokens=1, temperature=0.0, prompt_logprobs=True)
    scores = [_events(_start(engine, prompt, scoring)[1])[0].prompt for engine in (exact, best)]
    differences = [abs(a.logprob - b.logprob) for a, b in zip(*scores, strict=True)]
    assert len(differences) == 59
    assert 0 < sum(differences) / 59 < 0.05  # another precision, and nearly the same
    for events in crowd:
        _events(events)
    for engine in engines:
        engine.close()


def test_int8_weights_say_nearly_the_same(make: Make) -> None:
    sampling = replace(GREEDY, max_tokens=1, prompt_logprobs=True)
    prompt = list(range(20, 60))
    exact, small = (
        [s.logprob for s in _events(_start(make(kernels="native", weights=w), prompt, sampling)[1])[0].prompt]
        for w in ("float32", "int8")
    )
    assert 0 < float(np.abs(np.subtract(exact, small)).max()) < 0.5
    with pytest.raises(UserError, match="kernels = 'native'"):
        make(kernels="torch", weights="int8")


def test_sampling_same_seed_in_company_gives_the_same_tokens_and_bits(make: Make) -> None:
    engine = make(kernels="native")
    sampling = Sampling(max_tokens=20, temperature=0.9, top_p=0.95, seed=7, ignore_end=True, presence_penalty=0.5)
    alone = _events(_start(engine, [30, 31, 32], sampling)[1])
    crowd = [_start(engine, [40 + n, 50, 60], GREEDY) for n in range(3)]
    assert _events(_start(engine, [30, 31, 32], sampling)[1]) == alone
    assert all(len(_tokens(events)) == 24 for _, events in crowd)
    assert _events(_start(engine, [30, 31, 32], replace(sampling, seed=8))[1]) != alone


def test_repetition_penalty_equals_transformers(folder: Path, make: Make) -> None:
    theirs = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = [30, 31, 32, 33, 34]
    wanted = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None, repetition_penalty=1.3
    )
    ours = _tokens(_start(make(), prompt, replace(GREEDY, repetition_penalty=1.3))[1])
    assert ours == wanted[0, 5:].tolist()


def test_presence_penalty_of_two_visits_every_token_before_it_repeats_much(make: Make) -> None:
    engine = make()
    plain = _tokens(_start(engine, [30, 31], ENDLESS)[1])
    spread = _tokens(_start(engine, [30, 31], replace(ENDLESS, frequency_penalty=2.0))[1])
    assert len(set(spread)) > 2 * len(set(plain))


def test_prompt_and_alternatives_are_scored_as_transformers_scores_them(folder: Path, make: Make) -> None:
    theirs = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = list(range(20, 60))
    with torch.inference_mode():
        logprobs = theirs(torch.tensor([prompt])).logits[0].log_softmax(-1)
    sampling = replace(GREEDY, max_tokens=2, prompt_logprobs=True, top_logprobs=3)
    first, second, _ = _events(_start(make(), prompt, sampling)[1])
    wanted = [float(logprobs[n, token]) for n, token in enumerate(prompt[1:])]
    assert [s.logprob for s in first.prompt] == pytest.approx(wanted, abs=1e-4)
    assert second.scored is not None
    assert [token for token, _ in second.scored.top] == logprobs[-1].topk(3).indices.tolist()


def test_full_queue_refuses_and_later_serves(make: Make) -> None:
    engine = make()
    accepted = []
    with pytest.raises(Overloaded):
        for _ in range(200):
            accepted.append(_start(engine, [33, 34], ENDLESS))
    for request, _ in accepted:
        request.cancel()
    for _, events in accepted:
        _tokens(events)
    assert len(_tokens(_start(engine, [33, 34], GREEDY)[1])) == 24


def test_deadline_in_the_queue_ends_before_prefill_and_while_running_at_once(make: Make) -> None:
    engine = make(batch=1)
    events = _start(engine, [33, 34], ENDLESS)[1]
    late = _events(_start(engine, [35, 36], GREEDY, deadline=time.monotonic() - 1)[1])
    assert [(event.scored, event.finish) for event in late] == [(None, "deadline")]
    assert _events(events)[-1].finish == "length"
    assert engine.counters.late_requests == 1


def test_user_with_one_request_is_served_before_the_twentieth_of_another(make: Make) -> None:
    engine = make(batch=2)
    order: queue.Queue[str] = queue.Queue()

    def told(name: str) -> Callable[[Event], None]:
        return lambda event: order.put(name) if event.finish else None

    for _ in range(10):
        engine.submit(Request([33, 34], ENDLESS, told("many"), user="many"))
    engine.submit(Request([35, 36], GREEDY, told("one"), user="one"))
    finished = [order.get(timeout=PATIENCE) for _ in range(11)]
    assert finished.index("one") < 5


def test_prompt_beyond_the_window_is_refused(make: Make) -> None:
    engine = make()
    with pytest.raises(ValueError, match="128 tokens"):
        _start(engine, [30] * 120, GREEDY)
    with pytest.raises(ValueError, match="empty"):
        _start(engine, [], GREEDY)


def test_stopped_engine_refuses(make: Make) -> None:
    engine = make()
    engine.close()
    with pytest.raises(Stopping, match="stopping"):
        _start(engine, [30], GREEDY)


def test_weights_that_give_no_number_fail_one_request_and_not_the_next(folder: Path) -> None:
    model = read_model(folder)
    with torch.no_grad():
        model.transformer.wpe.weight[40] = float("nan")
    engine = LocalEngine(model, load_tokenizer(folder), EngineConfig(cache_tokens=512))
    good = _start(engine, [30, 31], GREEDY)[1]
    bad = _start(engine, [30] * 60, GREEDY)[1]
    assert _events(bad)[-1].finish == "error"
    assert len(_tokens(good)) == 24
    engine.close()
