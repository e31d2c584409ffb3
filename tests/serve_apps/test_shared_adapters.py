"""Adapters that share their base's engine answer as those that were added into a copy of its weights."""

import json
import queue
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from serve_apps.api.metrics import EngineCollector
from serve_apps.api.service import Served
from serve_apps.deployment import Completions, ModelSettings, served_models
from serve_apps.engine.engine import Adapted, EngineConfig, LocalEngine
from serve_apps.engine.request import Event, Request, Sampling, Scored
from starloom.model.adapter import read_adapted
from starloom.model.folder import read_model
from tests.patience import PATIENCE

GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_end=True)
PROMPT = list(range(20, 60))
Serve = Callable[..., Mapping[str, Served]]


def write(folder: Path, base: Path, ends: tuple[str, ...], rank: int, seed: int) -> Path:
    """An adapter of the base's weights whose names end so."""
    folder.mkdir()
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, weight in read_model(base).named_parameters():
        if name.endswith(ends):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            state[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(rank, weight.shape[1], generator=generator)
            state[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(weight.shape[0], rank, generator=generator)
    save_file(state, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def folders(tiny_models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path, base = tmp_path_factory.mktemp("adapters"), tiny_models[0]
    whole = ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")
    return {
        "base": base,
        "whole": write(path / "whole", base, whole, 5, 1),
        "part": write(path / "part", base, ("0.attn.c_attn.weight",), 3, 2),
        "embedded": write(path / "embedded", base, ("wte.weight",), 2, 3),
    }


@pytest.fixture
def serve(folders: dict[str, Path]) -> Iterator[Serve]:
    made: list[Served] = []

    def serve(names: Sequence[str], **settings: object) -> Mapping[str, Served]:
        engine = EngineConfig.model_validate({"threads": 1, "cache_tokens": 4096, **settings})
        asked = [ModelSettings(folder=str(folders[name]), name=name, engine=engine) for name in names]
        made.extend(served_models(asked))
        return {one.name: one for one in made[-len(names) :]}

    yield serve
    for one in made:
        one.engine.close()


def asked(engine: LocalEngine | Adapted, prompt: list[int] = PROMPT) -> queue.Queue[Event]:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(Request(prompt, GREEDY, events.put))
    return events


def told(events: queue.Queue[Event]) -> list[Scored]:
    found = [events.get(timeout=PATIENCE)]
    while not found[-1].finish:
        found.append(events.get(timeout=PATIENCE))
    return [event.scored for event in found if event.scored]


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_each_answers_as_if_it_were_merged_alone_and_in_company(
    folders: dict[str, Path], serve: Serve, kernels: str
) -> None:
    names = ("base", "whole", "part")
    served = serve(names, kernels=kernels)
    engines = {name: one.engine for name, one in served.items()}
    assert len({one.engine for one in engines.values()}) == 1
    alone = {name: told(asked(engines[name])) for name in names}  # the later ones may not find the first one's prompt
    company = {name: asked(engines[name], PROMPT[n:]) for n, name in enumerate(names * 3)}
    for events in company.values():
        told(events)
    together = {name: asked(engines[name]) for name in names}
    for name in names:
        if kernels == "native":
            assert told(together[name]) == alone[name]
        merged = LocalEngine(read_adapted(folders[name]), served[name].tokenizer, EngineConfig(threads=1))
        expected = told(asked(merged))
        merged.close()
        assert [one.token for one in alone[name]] == [one.token for one in expected]
        assert [one.logprob for one in alone[name]] == pytest.approx([one.logprob for one in expected], abs=1e-3)
    assert len({tuple(one.token for one in answer) for answer in alone.values()}) == 3


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_folders_that_are_written_over_change_no_answer(
    folders: dict[str, Path], serve: Serve, kernels: str, tmp_path: Path
) -> None:
    folders["mine"] = shutil.copytree(folders["base"], tmp_path / "mine")
    folders["adapted"] = write(tmp_path / "adapted", folders["mine"], ("c_attn.weight",), 5, 4)
    served = serve(("mine", "adapted"), kernels=kernels)
    _, before = [[told(asked(one.engine)) for one in served.values()] for _ in range(2)]  # both find the prompt again
    for name in served:
        for path in folders[name].glob("*.safetensors"):
            with path.open("r+b") as file:  # another model in the same files, as `cp` writes it
                file.seek(path.stat().st_size // 8)
                file.write(b"\x3f" * (path.stat().st_size * 7 // 8))
    assert [told(asked(one.engine)) for one in served.values()] == before


def test_prompts_of_one_are_found_again_by_itself_alone(serve: Serve) -> None:
    served = serve(("whole", "part"))
    for expected in (0, len(PROMPT) // 16 * 16):
        for one in served.values():
            before = one.engine.counters.prefix_hits
            told(asked(one.engine))
            assert one.engine.counters.prefix_hits - before == expected


def test_counts_are_each_ones_own(serve: Serve) -> None:
    served = serve(("base", "whole", "part"))
    told(asked(served["whole"].engine))
    (counted,) = (
        metric for metric in EngineCollector({name: one.engine for name, one in served.items()}).collect()
        if metric.name == "vllm:generation_tokens"
    )  # fmt: skip
    values = {sample.labels["model_name"]: sample.value for sample in counted.samples}
    assert values == {"base": 0, "whole": 24, "part": 0}
    assert served["base"].engine.load.running == served["part"].engine.load.waiting == 0


def test_who_changes_other_weights_or_has_other_settings_has_an_engine_of_its_own(
    folders: dict[str, Path], serve: Serve
) -> None:
    served = serve(("base", "embedded", "whole"))
    assert isinstance(served["embedded"].engine, LocalEngine)
    assert isinstance(served["whole"].engine, Adapted)
    models = [
        {"name": "base", "folder": str(folders["base"]), "engine": {"batch": 2}},
        {"name": "whole", "folder": str(folders["whole"])},
    ]
    apart = Completions({"models": models})
    for one in apart._service.models.values():
        assert isinstance(one.engine, LocalEngine)
        one.engine.close()


def test_load_of_an_engine_is_that_of_all_who_share_it(folders: dict[str, Path]) -> None:
    models = [
        {"name": name, "folder": str(folders[name]), "engine": {"batch": 1, "threads": 1}} for name in ("whole", "part")
    ]
    replica = Completions({"models": models})
    engines = [one.engine for one in replica._service.models.values()]
    events = [asked(engine) for _ in range(20) for engine in engines]
    assert replica.record_autoscaling_stats()["occupancy"] > 20
    for one in events:
        told(one)
    assert replica.record_autoscaling_stats()["occupancy"] == 0
    for engine in engines:
        engine.close()
