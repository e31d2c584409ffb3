"""The model card: what made a model, as the README.md of its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starloom.kinds import Corpus, Evaluation, Memorization, Model
from starloom.markdown import table
from starloom.model.config import ModelConfig

SETTINGS = ("global_batch", "sequence", "context", "optimizer", "fim", "weights", "seed", "precision", "layout", "zero")


_COMPLETES = (
    "The model completes code; it does not follow instructions, and what it writes can be wrong, insecure or a copy of "
    "its\ntraining data.\n"
)
_CHATS = (
    "The model answers in dialogues, with the chat template of its tokenizer; it was not aligned to refuse anything, "
    "and\nwhat it writes can be wrong, insecure or a copy of its training data.\n"
)


def adapter_card(base: Path, steps: int, sections: Sequence[str] = ()) -> str:
    """The README.md of an adapter's folder; `sections` are Markdown."""
    return f"""---
library_name: peft
base_model: {base.name}
tags: [code, gpt_bigcode, lora, starloom]
---
# A LoRA adapter of {base.name}, trained with Starloom

{steps:,} steps. It changes the model in the folder that `adapter_config.json` names, and no other.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "FOLDER")
```

{"".join(section + chr(10) * 2 for section in sections)}{_COMPLETES}"""


def model_card(shape: ModelConfig, steps: int, sections: Sequence[str] = (), *, chats: bool = False) -> str:
    """The README.md of a model folder; `sections` are Markdown."""
    return f"""---
library_name: transformers
tags: [code, gpt_bigcode, {"chat" if chats else "starloom"}]
---
# A {"chat" if chats else "code"} model trained with Starloom

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

{"".join(section + chr(10) * 2 for section in sections)}{_CHATS if chats else _COMPLETES}"""


def trained(model: Model, position: Mapping[str, Any]) -> list[str]:
    """What it was trained with, as sections."""
    settings = model.artifact.manifest.config
    rows: list[tuple[str, Any]] = [(name, settings[name]) for name in SETTINGS if settings.get(name) not in (None, {})]
    if position.get("heldout_loss") is not None:
        rows.append(("held-out loss at this step", f"{position['heldout_loss']:.4f}"))
    return ["## Training", table(("setting", "value"), [(name, _shown(value)) for name, value in rows])]


def data(corpus: Corpus | None) -> list[str]:
    """What it was trained on, as sections."""
    if corpus is None:
        return []
    funnel = [(stage.stage, f"{stage.files_in:,}", f"{stage.files_out:,}") for stage in corpus.funnel()]
    languages = corpus.languages()
    sizes = [(name, f"{entry['files']:,}", f"{entry['bytes']:,}") for name, entry in sorted(languages.items())]
    return [
        "## Data",
        table(("stage", "files in", "files out"), funnel),
        table(("language", "files", "bytes"), sizes),
    ]


def scores(evaluations: Sequence[Evaluation]) -> list[str]:
    """What it was measured at, as sections."""
    sections = []
    for evaluation in evaluations:
        found = evaluation.results()
        rows = [
            (benchmark, f"pass@{k}", f"{value:.1%}", f"{entry['tasks']:,} tasks, n = {entry['n']:,}")
            for benchmark, entry in sorted(found.items())
            if isinstance(entry, dict) and "pass_at_k" in entry
            for k, value in sorted(entry["pass_at_k"].items(), key=lambda pair: int(pair[0]))
        ]
        if "heldout" in found:
            rows.append(("held-out files", "bits per byte", f"{found['heldout']['bits_per_byte']:.3f}", ""))
        sections += ["## Evaluation", table(("benchmark", "measure", "value", "on"), rows)]
    return sections


def memorization(found: Sequence[Memorization]) -> list[str]:
    """What it writes that stands in its corpus, as sections."""
    sections = []
    for one in found:
        rows = [
            (row["prompts"], row["writer"], f"{row['share']:.1%}", f"{row['longest']:,}", f"{row['extractable']:.1%}")
            for row in one.results()["figures"]
        ]
        head = ("prompts", "written by", "characters in the corpus", "longest passage", "extractable")
        sections += ["## Memorization", table(head, rows)]
    return sections


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list) else str(value)
