"""From a checkpoint to a model folder that transformers loads."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.step import Outcome, StepContext
from train_jobs import checkpoint
from train_jobs.checkpoint import MASTER
from train_jobs.export import ExportConfig
from train_jobs.parallel.pipeline import Exported

# what a run's own export holds beside the weights, and another checkpoint's has too
BESIDE = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SETTINGS = ("global_batch", "sequence", "context", "optimizer", "fim", "weights", "seed", "precision", "layout", "zero")


def export(config: ExportConfig, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.export`."""
    model = context.only("model")
    source = chosen(model.local("checkpoints"), config.checkpoint)
    position = checkpoint.verified(source)
    shape = ModelConfig(**model.manifest.details["shape"])
    target, own = context.output.local_folder("model"), model.local("model")
    card = model_card(shape, position["step"], [*_trained(model, position), *_data(context), *_scores(context)])
    export_checkpoint(source, target, shape, str(own), card=card)
    for name in BESIDE:
        if (own / name).is_file():
            shutil.copyfile(own / name, target / name)
    context.output.publish("model")
    context.say(f"step {position['step']:,} of {model.name}")
    return Outcome(rows_in=1, rows_out=1, details={**model.manifest.details, "checkpoint": position["step"]})


def chosen(folder: Path, wanted: int | str) -> Path:
    """The checkpoint of a step, the last, or the one of the least held-out loss.

    Raises:
        UserError: there is none; the line says which there are.
    """
    complete = {
        int(path.parent.name.removeprefix("step-")): path for path in folder.glob(f"step-*/{checkpoint.MANIFEST}")
    }
    if wanted == "best":
        losses = {step: json.loads(path.read_text()).get("heldout_loss") for step, path in complete.items()}
        known = {step: loss for step, loss in losses.items() if loss is not None}
        if not known:
            raise UserError("checkpoint = 'best': no checkpoint knows its held-out loss; name a step or 'last'")
        step = min(known, key=lambda step: (known[step], step))
    else:
        step = max(complete, default=-1) if wanted == "last" else int(wanted)
    if step not in complete:
        raise UserError(
            f"checkpoint = {wanted!r}: the run has kept {sorted(complete)}; see keep_checkpoints, keep_every"
        )
    return complete[step].parent


def export_checkpoint(source: Path, target: Path, shape: ModelConfig, tokenizer: str, card: str | None = None) -> None:
    """Write the fp32 masters of a checkpoint as a `GPTBigCodeForCausalLM` folder with its tokenizer and card."""
    position = json.loads((source / checkpoint.MANIFEST).read_text())
    with checkpoint.opened(source) as masters:
        state = Exported(masters, shape, suffix=f".{MASTER}")
        write_model(target, shape, state, tokenizer=tokenizer, card=card or model_card(shape, position["step"]))


def model_card(shape: ModelConfig, steps: int, sections: Sequence[str] = ()) -> str:
    """The README.md of a model folder; `sections` are Markdown."""
    return f"""---
library_name: transformers
tags: [code, gpt_bigcode, starloom]
---
# A code model trained with Starloom

| | |
|---|---|
| architecture | GPTBigCode: multi-query attention, learned positions, tied embeddings |
| parameters | {shape.parameters:,} |
| layers / width / heads | {shape.layers} / {shape.hidden} / {shape.heads} |
| vocabulary | {shape.vocabulary:,} |
| context | {shape.context:,} tokens |
| training steps | {steps:,} |

Fill-in-the-middle: `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>`, and the suffix-first form.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

{"".join(section + chr(10) * 2 for section in sections)}\
The model completes code; it does not follow instructions, and what it writes can be wrong, insecure or a copy of its
training data.
"""


def _trained(model: Artifact, position: Mapping[str, Any]) -> list[str]:
    settings = model.manifest.config
    rows: list[tuple[str, Any]] = [(name, settings[name]) for name in SETTINGS if settings.get(name) not in (None, {})]
    if position.get("heldout_loss") is not None:
        rows.append(("held-out loss at this step", f"{position['heldout_loss']:.4f}"))
    return ["## Training", _table(("setting", "value"), [(name, _shown(value)) for name, value in rows])]


def _data(context: StepContext) -> list[str]:
    corpus = context.optional("corpus")
    if corpus is None:
        return []
    funnel = [(s["stage"], f"{s['files_in']:,}", f"{s['files_out']:,}") for s in corpus.read_json("funnel.json")]
    languages = corpus.read_json("languages.json")
    sizes = [(name, f"{entry['files']:,}", f"{entry['bytes']:,}") for name, entry in sorted(languages.items())]
    return [
        "## Data",
        _table(("stage", "files in", "files out"), funnel),
        _table(("language", "files", "bytes"), sizes),
    ]


def _scores(context: StepContext) -> list[str]:
    sections = []
    for artifact in context.every("evaluation"):
        found = artifact.read_json("results.json")
        rows = [
            (benchmark, f"pass@{k}", f"{value:.1%}", f"{entry['tasks']:,} tasks, n = {entry['n']:,}")
            for benchmark, entry in sorted(found.items())
            if isinstance(entry, dict) and "pass_at_k" in entry
            for k, value in sorted(entry["pass_at_k"].items(), key=lambda pair: int(pair[0]))
        ]
        if "heldout" in found:
            rows.append(("held-out files", "bits per byte", f"{found['heldout']['bits_per_byte']:.3f}", ""))
        sections += ["## Evaluation", _table(("benchmark", "measure", "value", "on"), rows)]
    return sections


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines)
