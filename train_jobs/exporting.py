"""From a checkpoint to a model folder that transformers loads."""

import json
from pathlib import Path

from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from train_jobs import checkpoint
from train_jobs.checkpoint import MASTER
from train_jobs.parallel.pipeline import Exported


def export_checkpoint(source: Path, target: Path, shape: ModelConfig, tokenizer: str) -> None:
    """Write the fp32 masters of a checkpoint as a `GPTBigCodeForCausalLM` folder with its tokenizer and card."""
    position = json.loads((source / checkpoint.MANIFEST).read_text())
    with checkpoint.opened(source) as masters:
        state = Exported(masters, shape, suffix=f".{MASTER}")
        write_model(target, shape, state, tokenizer=tokenizer, card=model_card(shape, position["step"]))


def model_card(shape: ModelConfig, steps: int) -> str:
    """The README.md of a model folder."""
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

The model completes code; it does not follow instructions, and what it writes can be wrong, insecure or a copy of its
training data.
"""
