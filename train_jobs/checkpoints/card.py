"""The model card: what made a model, as the README.md of its folder."""

from collections.abc import Sequence
from pathlib import Path

from starloom.model.config import ModelConfig

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
