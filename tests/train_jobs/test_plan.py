"""Plans are exact where they count, and land where StarCoder's own runs landed."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from starloom.cli import main as starloom
from starloom.errors import UserError
from starloom.model.config import ModelConfig
from starloom.recipe import load_recipe
from tests.patience import PATIENCE
from train_jobs.config import PretrainConfig
from train_jobs.layout import Layout
from train_jobs.plan import describe, make_plan
from train_jobs.planning.counts import stage_parameters
from train_jobs.planning.forecast import check_node, forecast, layouts
from train_jobs.planning.hardware import HARDWARE

A100 = HARDWARE["a100-80g"]
SIZES = {"1b": 1_137_207_296, "3b": 3_043_311_104, "7b": 7_327_263_232, "15b": 15_517_456_384}


@pytest.mark.parametrize(("size", "parameters"), SIZES.items())
def test_starcoder_recipe_fits_its_gpus_and_counts_its_parameters(size: str, parameters: int) -> None:
    plan = make_plan(load_recipe(f"starcoderbase-{size}"), A100, mfu=0.37)
    assert plan.model.parameters == parameters
    assert plan.chosen.fits
    assert plan.chosen.layout in [one.layout for one in plan.others]


def test_starcoder_15b_on_512_a100_takes_24_days() -> None:
    plan = make_plan(load_recipe("starcoderbase-15b"), A100, mfu=0.37)
    assert plan.chosen.layout == Layout(pipeline=4, tensor=4, data=32)
    assert plan.days == pytest.approx(24, abs=0.5)
    assert plan.tokens == 250_000 * 512 * 8192


@pytest.mark.parametrize(("pipeline", "tensor"), [(1, 1), (1, 2), (2, 1), (2, 4), (4, 4)])
def test_rank_parameters_equal_those_of_the_real_layers_under_the_real_partitioner(pipeline: int, tensor: int) -> None:
    torch = pytest.importorskip("torch")
    from deepspeed.runtime.utils import partition_balanced

    from train_jobs.parallel.layers import Norm, ParallelBlock, PositionEmbedding, TensorSlice, TokenEmbedding

    model = ModelConfig(layers=8, hidden=128, heads=8, vocabulary=1003, context=64)
    place = TensorSlice(0, tensor, None)
    with torch.device("meta"):
        embedding = TokenEmbedding(model, place)
        blocks = [ParallelBlock(model, place, number) for number in range(model.layers)]
        layers = [
            embedding,
            PositionEmbedding(model, place),
            *blocks,
            Norm(model, place, "transformer.ln_f"),
            embedding,
        ]
    bounds = partition_balanced([int(layer in blocks) for layer in layers], pipeline)
    counted = []
    for first, end in pairwise(bounds):
        stage = torch.nn.ModuleList(layers[first:end])
        counted.append(sum(held.numel() for held in stage.parameters()))
    assert stage_parameters(model, Layout(pipeline=pipeline, tensor=tensor)) == tuple(counted)


def test_one_rank_holds_the_whole_model() -> None:
    model = ModelConfig(layers=24, hidden=2048, heads=16, vocabulary=49_152)
    assert stage_parameters(model, Layout()) == (model.parameters,)


def test_more_data_ranks_shrink_the_optimizer_alone() -> None:
    config = PretrainConfig(global_batch=64, micro_batch=1)
    model = config.shape(4096)
    one, eight = (forecast(config, model, A100, Layout(data=ranks)) for ranks in (1, 8))
    assert one.memory.optimizer == pytest.approx(8 * eight.memory.optimizer, rel=1e-3)
    assert one.memory.weights == eight.memory.weights
    assert one.memory.activations == eight.memory.activations


def test_pipeline_is_idle_less_with_more_micro_batches() -> None:
    few = PretrainConfig(global_batch=4, micro_batch=1)
    many = PretrainConfig(global_batch=16, micro_batch=1)
    layout = Layout(pipeline=4)
    assert forecast(few, few.shape(4096), A100, layout).bubble == pytest.approx(3 / 7)
    assert forecast(many, many.shape(4096), A100, layout).bubble == pytest.approx(3 / 19)


def test_layouts_keep_tensor_ranks_inside_a_node_and_use_every_rank() -> None:
    config = PretrainConfig(model={"layers": 8, "hidden": 256, "heads": 16}, global_batch=64, micro_batch=1)
    found = list(layouts(config, config.shape(4096), A100, 32))
    assert len(found) == len(set(map(str, found))) > 4
    assert all(layout.ranks == 32 and layout.tensor <= 8 for layout in found)


def test_tensor_ranks_across_nodes_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"layout.tensor = 16 .* divisor of 8"):
        check_node(Layout(tensor=16), A100)


def test_half_a_node_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="12 ranks fill no whole number of nodes of 8"):
        check_node(Layout(data=12), A100)


def test_layout_that_does_not_divide_the_layers_is_refused_with_the_remedy() -> None:
    recipe = load_recipe("starcoderbase-15b", assignments=("model.layout.pipeline=3", "model.layout.data=4"))
    with pytest.raises(UserError, match=r"layers = 40 .* multiple of 3"):
        make_plan(recipe, A100, mfu=0.37)


def test_15b_on_one_gpu_does_not_fit_and_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    alone = ["--set", "model.layout={}", "--set", "model.global_batch=1"]
    assert starloom(["plan", "starcoderbase-15b", *alone]) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    assert "no layout of this many ranks fits" in printed


def test_command_prints_time_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert starloom(["plan", "starcoderbase-15b", "--price", "1"]) == 0
    printed = capsys.readouterr().out
    assert "37.5% MFU, 23.7 days, $291,745" in printed
    table = printed[printed.index("a rank sends") : printed.index("pipeline idle")]
    rows = {words[0]: words[1:] for words in map(str.split, table.splitlines())}
    # GB, link, seconds, of these hidden, of these waited for
    assert rows["tensor"] == ["103.68", "inside", "the", "node", "0.346", "0.000", "0.346"]
    assert rows["pipeline"][1:3] == rows["data"][1:3] == ["between", "nodes"]
    assert "<- the recipe" in printed


def test_recipe_without_training_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to plan"):
        make_plan(load_recipe("mixed-sources"), A100, mfu=0.37)


def test_each_stage_of_zero_takes_less_and_moves_more() -> None:
    values = {"model": {"layers": 24, "hidden": 2048, "heads": 16, "context": 8192}, "precision": "bf16"}
    plans = []
    for zero in (1, 2, 3):
        config = PretrainConfig(**values, global_batch=64, micro_batch=1, zero=zero, layout=Layout(data=8))
        plans.append(forecast(config, config.shape(49_152), A100, config.layout))
    state = [one.memory.weights + one.memory.gradients + one.memory.optimizer for one in plans]
    parameters = 1_137_207_296
    expected = [(2 + 6 + 12 / 8), (2 + 16 / 8), (2 + 16) / 8]
    assert state == pytest.approx([parameters * each for each in expected], rel=1e-3)
    assert plans[0].traffic.data.sent < min(plans[1].traffic.data.sent, plans[2].traffic.data.sent)
    offloaded = PretrainConfig(**values, global_batch=64, micro_batch=1, zero=3, offload=True, layout=Layout(data=8))
    held = forecast(offloaded, offloaded.shape(49_152), A100, offloaded.layout).memory
    assert held.optimizer == held.gradients == 0
    assert held.host == pytest.approx(16 * parameters / 8, rel=1e-3)


def test_fine_tuning_is_planned_with_the_shape_of_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert starloom(["plan", "chat"]) == 2
    assert "has no config.json; put the model there, or name another folder" in capsys.readouterr().err
    shape = ModelConfig(layers=24, hidden=2048, heads=16, vocabulary=49_152)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_transformers(end_of_text=0)))
    assert starloom(["plan", "chat", "--model-folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "chat: 1,137,207,296 parameters" in printed
    assert "the conversations tell how many there are" in printed


TWICE = """
name = "twice"
root = "runs/twice"
[[steps]]
name = "model"
run = "train_jobs.pretrain"
config = { model = { layers = 2, hidden = 64, heads = 4, context = 128 }, global_batch = 8, micro_batch = 1 }
[[steps]]
name = "chat"
run = "train_jobs.finetune"
needs = ["model"]
config = { context = 64, global_batch = 8 }
"""


def test_step_of_a_recipe_that_trains_twice_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "twice.toml").write_text(TWICE)
    recipe = load_recipe(str(tmp_path / "twice.toml"))
    first, second = (make_plan(recipe, A100, mfu=0.4, vocabulary=512, step=step) for step in ("", "chat"))
    assert (first.counted, first.config.length) == (True, 128)
    assert (second.counted, second.config.length, second.model.layers) == (False, 64, 2)
    assert starloom(["plan", str(tmp_path / "twice.toml"), "--step", "talk"]) == 2
    assert "step talk runs neither train_jobs.pretrain nor train_jobs.finetune" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--vocabulary", "-5"), ("--peak-tflops", "inf"), ("--memory-gb", "nan")])
def test_nonsense_numbers_are_refused_in_one_line(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = starloom(["plan", "starcoderbase-1b", *option])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_described_memory_adds_up() -> None:
    plan = make_plan(load_recipe("starcoderbase-7b"), A100, mfu=0.4)
    parts = [float(line.split()[1]) for line in describe(plan) if line.startswith("  ") and "usable" not in line][:5]
    assert sum(parts) == pytest.approx(plan.chosen.memory.total / 1e9, abs=0.03)


def test_planning_imports_neither_torch_nor_ray() -> None:
    code = "import sys, train_jobs.plan as p; p.main(['starcoderbase-1b']); print({'torch', 'ray'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ended.stdout.splitlines()[-1] == "set()"
