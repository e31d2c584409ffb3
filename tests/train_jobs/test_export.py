"""Any checkpoint of a run as a folder that transformers loads, with a card of what made it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import Artifact
from starloom.config import Config, validate
from starloom.errors import UserError
from starloom.model.config import ModelConfig
from starloom.model.folder import read_ends, read_state, write_model
from starloom.model.model import initial_state
from starloom.report import page_of
from starloom.step import Outcome, Step, StepContext, run_step
from train_jobs.checkpoints import store as checkpoint
from train_jobs.export import STEP, ExportConfig

SHAPE = ModelConfig(layers=2, hidden=32, heads=4, vocabulary=290, context=32)
LOSSES = {10: 2.5, 20: 2.25, 30: 2.75}


class Settings(Config):
    """What a run's manifest keeps of its settings."""

    global_batch: int = 64
    seed: int = 3


def train(_: Settings, context: StepContext) -> Outcome:
    """What a run leaves: checkpoints of two stages, and the folder of the last."""
    folder = context.output.local_folder("checkpoints")
    (folder / "tokenizer.json").write_text(train_bpe(iter(["def f(x):\n    return x\n"] * 50), 290).json_text)
    for step, loss in LOSSES.items():
        stages: list[dict[str, torch.Tensor]] = [{}, {}]
        for name, tensor in initial_state(SHAPE, step).items():
            parts = {name: tensor}
            if ".c_attn." in name:
                q, kv = tensor.split((SHAPE.hidden, 2 * SHAPE.head_dim))
                parts = {name.replace("c_attn", "q"): q, name.replace("c_attn", "kv"): kv}
            stage = stages[".h.1." in name]
            stage.update({f"{part}.master": value.contiguous() for part, value in parts.items()})
        for number, tensors in enumerate(stages):
            checkpoint.write_share(folder / f"step-{step}", f"stage-{number}", tensors)
        assert checkpoint.write_manifest(
            folder / f"step-{step}", ["stage-0", "stage-1"], {"step": step, "updates": step, "heldout_loss": loss}
        )
    model = context.output.local_folder("model")
    write_model(model, SHAPE, initial_state(SHAPE, 30), tokenizer=folder / "tokenizer.json", card="")
    (model / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')
    return Outcome(details={"shape": SHAPE.model_dump(mode="json")})


def curate(_: Config, context: StepContext) -> Outcome:
    """The two files of a corpus that a card reads."""
    context.output.write_json("funnel.json", [{"stage": "quality", "files_in": 12_345, "files_out": 9_876}])
    context.output.write_json("languages.json", {"Rust": {"files": 9_876, "bytes": 1_000_000}})
    return Outcome()


def evaluate(_: Config, context: StepContext) -> Outcome:
    """Results as an evaluation writes them."""
    humaneval = {"pass_at_k": {"1": 0.336, "10": 0.5}, "tasks": 164, "n": 20}
    heldout = {"bits_per_byte": 0.75, "gzip": 1.9, "xz": 1.7}
    context.output.write_json("results.json", {"model": "m", "humaneval": humaneval, "heldout": heldout})
    return Outcome()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Artifact]]:
    root = str(tmp_path_factory.mktemp("run"))
    steps = [
        (Step(config=Settings, run=train, produces="model"), Settings(), "model"),
        (Step(config=Config, run=curate, produces="corpus"), Config(), "corpus"),
        (Step(config=Config, run=evaluate, produces="evaluation"), Config(), "evaluation"),
    ]
    return root, [run_step(step, config, root=root, name=name) for step, config, name in steps]


@pytest.mark.parametrize(("wanted", "step"), [("last", 30), ("best", 20), (10, 10)])
def test_export_writes_the_weights_of_the_chosen_checkpoint(
    run: tuple[str, list[Artifact]], wanted: int | str, step: int
) -> None:
    root, needs = run
    config = ExportConfig.model_validate({"checkpoint": wanted})
    folder = run_step(STEP, config, root=root, name="exported", needs=needs[:1]).local("model")
    state, expected = read_state(folder), initial_state(SHAPE, step)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert read_ends(folder) == {0, 5}  # as the run's own folder has them
    card = (folder / "README.md").read_text()
    assert f"| training steps | {step} |" in card
    assert f"{LOSSES[step]:.4f}" in card


def test_report_of_an_exported_model_has_no_curves(run: tuple[str, list[Artifact]]) -> None:
    root, needs = run
    exported = run_step(STEP, ExportConfig(), root=root, name="exported", needs=needs[:1])
    page = page_of("exported", [exported])
    assert exported.fingerprint in page
    assert "Gradient norm" not in page


def test_exported_folder_loads_in_transformers_and_its_card_tells_data_and_scores(
    run: tuple[str, list[Artifact]],
) -> None:
    root, needs = run
    folder = run_step(STEP, ExportConfig(), root=root, name="exported", needs=needs).local("model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert torch.isfinite(model(torch.tensor([tokenizer("def f(x):")["input_ids"]])).logits).all()
    card = Path(folder, "README.md").read_text()
    for line in (
        "| global_batch | 64 |",
        "| quality | 12,345 | 9,876 |",
        "| Rust | 9,876 | 1,000,000 |",
        "| humaneval | pass@1 | 33.6% | 164 tasks, n = 20 |",
        "| held-out files | bits per byte | 0.750 | gzip 1.900, xz 1.700 |",
    ):
        assert line in card


def test_what_a_publisher_passes_on_has_its_terms_beside_it(run: tuple[str, list[Artifact]], tmp_path: Path) -> None:
    root, needs = run
    publisher = {"name": "The team", "contact": "code@team.example", "license": "bigcode-openrail-m"}
    with pytest.raises(UserError, match="needs its text: give license_file"):
        validate(ExportConfig, {"publisher": publisher}, where="exported")
    terms = tmp_path / "terms"
    terms.write_text("The agreement.\nAttachment A\n")
    config = validate(ExportConfig, {"publisher": {**publisher, "license_file": str(terms)}}, where="exported")
    model, _, evaluation = needs
    folder = run_step(STEP, config, root=root, name="passed_on", needs=[model, evaluation]).local("model")
    assert (folder / "LICENSE").read_text() == terms.read_text()
    card = (folder / "README.md").read_text()
    for line in (
        'license: "bigcode-openrail-m"',
        "| 5.1 |",
        "33.6%",
        f"{LOSSES[30]:.4f}",
        "The team: code@team.example",
    ):
        assert line in card, line


def test_checkpoint_that_was_not_kept_is_told_with_those_that_were(run: tuple[str, list[Artifact]]) -> None:
    root, needs = run
    with pytest.raises(UserError, match=r"checkpoint = 15: the run has kept \[10, 20, 30\]"):
        run_step(STEP, ExportConfig(checkpoint=15), root=root, name="exported", needs=needs[:1])
