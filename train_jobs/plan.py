"""``starloom plan RECIPE``: memory, time and cost of the training step, before anything is started.

Imports neither torch nor Ray: it is arithmetic, and instant.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starloom.config import validate
from starloom.errors import UserError, one_line
from starloom.model.config import ModelConfig
from starloom.program import load_step
from starloom.recipe import Recipe, load_recipe
from train_jobs.config import LoopConfig, PretrainConfig, ShapeConfig
from train_jobs.planning.forecast import EFFICIENCY, STATE_BYTES, USABLE, Forecast, check_node, forecast, ranked
from train_jobs.planning.hardware import HARDWARE, Hardware

PRETRAIN: Final = "train_jobs.pretrain"
FINETUNE: Final = "train_jobs.finetune"
DAY = 86_400
STARCODER_VOCABULARY = 49_152


@dataclass(frozen=True)
class Plan:
    """A training step on given hardware."""

    name: str
    config: PretrainConfig
    model: ModelConfig
    hardware: Hardware
    mfu: float | None  # of the whole step, where it is given instead of what a step is reckoned from
    chosen: Forecast
    others: list[Forecast]
    counted: bool = True  # whether the recipe says how many steps there are; fine-tuning counts its conversations

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.config.steps * self.config.global_batch * self.config.length

    @property
    def seconds_per_step(self) -> float:
        """Products, the pipeline's idle share and traffic that nothing hides; or at the given MFU."""
        return self._seconds_at_peak / self.mfu if self.mfu else self.chosen.seconds

    @property
    def reached(self) -> float:
        """Model FLOPs utilization: the model's products in a step, as a share of what the processors could make."""
        return self._seconds_at_peak / self.seconds_per_step

    @property
    def _seconds_at_peak(self) -> float:
        tokens = self.config.global_batch * self.config.length
        products = self.config.products_share * self.model.flops_per_token(self.config.length) * tokens
        return products / (self.chosen.layout.ranks * self.hardware.peak_tflops * 1e12)

    @property
    def days(self) -> float:
        """Of the whole run."""
        return self.config.steps * self.seconds_per_step / DAY

    @property
    def dollars(self) -> float:
        """Of the whole run."""
        return self.days * 24 * self.chosen.layout.ranks * self.hardware.dollars_per_hour


def main(argv: Sequence[str]) -> int:
    """Print the plan. Returns 0 when the recipe's layout fits, else 1."""
    arguments = _parser().parse_args(argv)
    recipe = load_recipe(arguments.recipe, assignments=tuple(arguments.set))
    plan = make_plan(
        recipe,
        _hardware(arguments),
        mfu=arguments.mfu,
        efficiency=arguments.efficiency,
        vocabulary=arguments.vocabulary,
        model_folder=arguments.model_folder,
        step=arguments.step,
    )
    print("\n".join(describe(plan)))
    return 0 if plan.chosen.fits else 1


def make_plan(
    recipe: Recipe,
    hardware: Hardware,
    *,
    mfu: float | None = None,
    efficiency: float = EFFICIENCY,
    vocabulary: int | None = None,
    model_folder: str = "",
    step: str = "",
) -> Plan:
    """The plan of a recipe's training `step`, else of the first that trains from nothing, else of the first at all.

    `model_folder` is where fine-tuning finds its model's shape.

    Raises:
        UserError: no training step, or a layout that divides neither the model, the batch nor the nodes.
    """
    name, config, model = _training(recipe, vocabulary, model_folder, step)
    config.layout.check(model, config.global_batch, config.micro_batch)
    check_node(config.layout, hardware)
    chosen = forecast(config, model, hardware, config.layout, efficiency)
    others = ranked(config, model, hardware, config.layout.ranks, efficiency)
    return Plan(recipe.name, config, model, hardware, mfu, chosen, others, counted=name == PRETRAIN)


def _training(
    recipe: Recipe, vocabulary: int | None, folder: str, name: str
) -> tuple[str, PretrainConfig, ModelConfig]:
    """The program, the settings and the shape of a training step."""
    trained = [step for step in recipe.steps if step.run in (PRETRAIN, FINETUNE) and name in ("", step.name)]
    if not trained:
        which = f"step {name}" if name else "no step"
        raise UserError(
            f"recipe {recipe.name}: {which} runs {'neither ' if name else ''}{PRETRAIN} {'nor' if name else 'or'} "
            f"{FINETUNE}; there is nothing to plan"
        )
    entry = min(trained, key=lambda step: step.run != PRETRAIN)
    where = f"recipe {recipe.name}, step {entry.name}"
    if entry.run == PRETRAIN:
        config = validate(PretrainConfig, entry.config, where=where)
        if config.initial_model and not config.shaped:
            found = _shape_of(folder or config.initial_model)
            own = ShapeConfig(**found.model_dump(exclude={"vocabulary", "norm_epsilon"}))
            config = config.model_copy(update={"model": own.model_copy(update={"dropout": 0.0})})
            return entry.run, config, config.shape(found.vocabulary)
        return entry.run, config, config.shape(vocabulary or _vocabulary(recipe))
    from train_jobs.finetuning.config import FinetuneConfig

    tuning = validate(FinetuneConfig, entry.config, where=where)
    base = next((step for step in recipe.steps if step.run == PRETRAIN and step.name in entry.needs), None)
    if base is not None:
        shape = validate(PretrainConfig, base.config, where=where).shape(vocabulary or _vocabulary(recipe))
    else:
        shape = _shape_of(folder or tuning.model_folder)
    shape = shape.model_copy(update={"dropout": tuning.dropout})
    # how many steps it takes hangs on the conversations: a thousand are planned
    settings = PretrainConfig(
        model=ShapeConfig(**shape.model_dump(exclude={"vocabulary", "norm_epsilon"})),
        sequence=tuning.context,
        steps=1000,
        **{name: getattr(tuning, name) for name in LoopConfig.model_fields},
    )
    return entry.run, settings, shape


def _shape_of(folder: str) -> ModelConfig:
    path = Path(folder) / "config.json"
    try:
        return ModelConfig.from_transformers(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise UserError(
            f"model_folder: {folder or '(none)'} has no config.json; put the model there, or name another folder of "
            "its shape with --model-folder"
        ) from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def _vocabulary(recipe: Recipe) -> int:
    for entry in recipe.steps:
        step = load_step(entry.run)
        if step.produces == "tokenizer" and "vocabulary" in step.config.model_fields:
            config: Any = validate(step.config, entry.config, where=f"recipe {recipe.name}, step {entry.name}")
            return int(config.vocabulary)
    return STARCODER_VOCABULARY


def describe(plan: Plan) -> list[str]:
    """The plan as lines for people."""
    chosen, layout, model = plan.chosen, plan.chosen.layout, plan.model
    memory = chosen.memory
    usable = USABLE * plan.hardware.memory_gb
    verdict = "fits" if chosen.fits else "DOES NOT FIT"
    least, most = min(chosen.stage_parameters), max(chosen.stage_parameters)
    lines = [
        f"{plan.name}: {model.parameters:,} parameters, {plan.tokens:,} tokens in {plan.config.steps:,} steps"
        + ("" if plan.counted else " (as an example: the conversations tell how many there are)"),
        f"layout: pipeline {layout.pipeline} × data {layout.data} × tensor {layout.tensor} = {layout.ranks} ranks, "
        f"micro batch {chosen.micro_batch}",
        f"parameters of a rank: {least:,} to {most:,}",
        "",
        f"memory of the fullest rank (stage {chosen.fullest_stage}), GB",
        *(
            f"  {part:<12} {getattr(memory, part) / 1e9:8.2f}"
            for part in ("weights", "gradients", "optimizer", "activations", "buffers")
        ),
        f"  {'total':<12} {memory.total / 1e9:8.2f}  of {usable:.1f} usable: {verdict}",
        *([f"  and {memory.host / 1e9:.2f} in the node's memory, for each rank"] if memory.host else []),
        f"checkpoint: {STATE_BYTES * model.parameters / 1e9:,.1f} GB",
        "",
        *_traffic(plan),
        f"pipeline idle: {chosen.bubble:.1%}",
        f"{plan.seconds_per_step:.2f} s a step, {plan.reached:.1%} MFU, {plan.days:.1f} days, "
        f"${plan.dollars:,.0f} at ${plan.hardware.dollars_per_hour:.2f} an hour each",
    ]
    return [*lines, "", *_ranking(plan)]


def _traffic(plan: Plan) -> list[str]:
    traffic = plan.chosen.traffic
    lines = [f"{'a rank sends in a step':<24} {'GB':>8}  {'link':<16} {'seconds':>8} {'hidden':>8} {'waiting':>8}"]
    for axis, flow in (("tensor", traffic.tensor), ("pipeline", traffic.pipeline), ("data", traffic.data)):
        link = "" if not flow.sent else "between nodes" if flow.outside else "inside the node"
        lines.append(
            f"  {axis:<22} {flow.sent / 1e9:>8.2f}  {link:<16} "
            f"{flow.seconds:>8.3f} {flow.hidden:>8.3f} {flow.exposed:>8.3f}"
        )
    return lines


def _ranking(plan: Plan) -> list[str]:
    if not plan.others:
        return ["no layout of this many ranks fits; use more, a smaller micro batch, or more memory"]
    head = "layouts that fit, fastest first (time against the recipe's)"
    lines = [head, f"{'pipeline':>9} {'data':>5} {'tensor':>6} {'GB':>7} {'idle':>6} {'time':>6}"]
    for one in plan.others[:8]:
        relative = one.seconds / plan.chosen.seconds
        mark = "  <- the recipe" if one.layout == plan.chosen.layout else ""
        layout = one.layout
        lines.append(
            f"{layout.pipeline:>9} {layout.data:>5} {layout.tensor:>6} {one.memory.total / 1e9:>7.1f} "
            f"{one.bubble:>6.1%} {relative:>6.2f}{mark}"
        )
    return lines


def _hardware(arguments: argparse.Namespace) -> Hardware:
    changes = {
        "memory_gb": arguments.memory_gb,
        "peak_tflops": arguments.peak_tflops,
        "node_size": arguments.node_size,
        "dollars_per_hour": arguments.price,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    base = HARDWARE[arguments.hardware].model_dump()
    return validate(Hardware, {**base, **given}, where=f"--hardware {arguments.hardware}")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; give a number above 0 and at most 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of ids; give 1 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="starloom plan", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a TOML file, a URL or a built-in recipe's name")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE", help="override one setting")
    parser.add_argument("--hardware", choices=sorted(HARDWARE), default="a100-80g", help="(default %(default)s)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        "--efficiency",
        type=_share,
        default=EFFICIENCY,
        help="share of the peak while products are made (default %(default)s, from StarCoder's own 24 days)",
    )
    speed.add_argument(
        "--mfu", type=_share, help="of the whole step, instead of what traffic and idle time leave of it"
    )
    parser.add_argument("--price", type=float, help="dollars for one processor and hour")
    parser.add_argument("--memory-gb", type=float, help="10^9 bytes of each processor")
    parser.add_argument("--peak-tflops", type=float, help="of each processor, in the training precision")
    parser.add_argument("--node-size", type=int, help="processors in a node")
    parser.add_argument("--step", default="", metavar="NAME", help="which training step (default: the first)")
    parser.add_argument("--model-folder", default="", metavar="DIR", help="of the shape that is fine-tuned")
    parser.add_argument("--vocabulary", type=_count, help="when the recipe trains no tokenizer (default: StarCoder's)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
