"""From a checkpoint to a model folder that transformers loads."""

import json
import shutil
from pathlib import Path
from typing import Any

from starloom.config import validate
from starloom.errors import UserError
from starloom.governance import sections
from starloom.governance.facts import Facts
from starloom.governance.model_card import model_card
from starloom.governance.publisher import Publisher
from starloom.kinds import Corpus, Evaluation, Memorization, Model, Tokenizer
from starloom.model.adapter import write_adapter
from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.step import Outcome, StepContext
from train_jobs.checkpoints import card, store
from train_jobs.checkpoints.complete import MANIFEST, complete
from train_jobs.config import LoraConfig
from train_jobs.parallel.pipeline import Exported

LICENSE = "LICENSE"
# what a run's own export holds beside the weights, and another checkpoint's has too
BESIDE = ("generation_config.json", Tokenizer.FILE, Tokenizer.SETTINGS, "chat_template.jinja")


def export(checkpoint: int | str, publisher: Publisher | None, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.export`."""
    model = Model(context.only(Model.kind))
    source = chosen(model.checkpoints(), checkpoint)
    position = store.verified(source)
    shape = ModelConfig(**model.shape)
    target, own = context.output.local_folder(Model.FOLDER), model.folder()
    corpus = context.optional(Corpus.kind)
    parts = sections.titled("Training", [sections.training(model, position)])
    parts += sections.titled("Data", sections.data(Corpus(corpus))) if corpus else []
    for one in context.every(Evaluation.kind):
        parts += sections.titled("Evaluation", [sections.scores(Evaluation(one))])
    for one in context.every(Memorization.kind):
        parts += sections.titled("Memorization", [sections.memorization(Memorization(one))])
    whole = model_card(Facts.of(publisher, context.inputs, position)).text() if publisher else ""
    terms = publisher.license_text() if publisher else None
    settings = model.artifact.manifest.config.get("lora")
    if settings:
        text = whole or card.adapter_card(Path(model.initial) if model.initial else own, position["step"], parts)
        lora = validate(LoraConfig, settings, where=model.artifact.name)
        export_adapter(
            source, target, shape, lora, base=str(model.initial), tokenizer=str(own / Tokenizer.FILE), text=text
        )
    else:
        chats = (own / "chat_template.jinja").is_file() or "chat_template" in _settings(own)
        text = whole or card.model_card(shape, position["step"], parts, chats=chats)
        export_checkpoint(source, target, shape, str(own), text=text)
    if terms is not None:  # in the place of the words that a folder has where nobody states terms
        (target / LICENSE).write_text(terms, encoding="utf-8")
    for name in BESIDE:
        if (own / name).is_file():
            shutil.copyfile(own / name, target / name)
    context.output.publish(Model.FOLDER)
    context.say(f"step {position['step']:,} of {model.artifact.name}")
    return Outcome(rows_in=1, rows_out=1, details={**model.artifact.manifest.details, "checkpoint": position["step"]})


def chosen(folder: Path, wanted: int | str) -> Path:
    """The checkpoint of a step, the last, or the one of the least held-out loss.

    Raises:
        UserError: there is none; the line says which there are.
    """
    kept = complete(folder)
    if wanted == "best":
        losses = {step: json.loads(path.read_text()).get("heldout_loss") for step, path in kept.items()}
        known = {step: loss for step, loss in losses.items() if loss is not None}
        if not known:
            raise UserError("checkpoint = 'best': no checkpoint knows its held-out loss; name a step or 'last'")
        step = min(known, key=lambda step: (known[step], step))
    else:
        step = max(kept, default=-1) if wanted == "last" else int(wanted)
    if step not in kept:
        raise UserError(f"checkpoint = {wanted!r}: the run has kept {sorted(kept)}; see keep_checkpoints, keep_every")
    return kept[step].parent


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / Tokenizer.SETTINGS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def export_adapter(
    source: Path, target: Path, shape: ModelConfig, lora: LoraConfig, *, base: str, tokenizer: str, text: str = ""
) -> None:
    """Write the fp32 masters of a checkpoint as a LoRA adapter of the model in `base`, in peft's format."""
    step = json.loads((source / MANIFEST).read_text())["step"]
    names = [
        f"transformer.h.{block}.{matrix}.lora_{part}.weight"
        for block in range(shape.layers)
        for matrix in lora.targets
        for part in "AB"
    ]
    with store.opened(source) as masters:
        state = {
            name: masters.read(f"{name}.{store.MASTER}", 0, 0, masters.shape(f"{name}.{store.MASTER}")[0])
            for name in names
        }
        write_adapter(
            target,
            state,
            base=base,
            rank=lora.rank,
            alpha=lora.alpha,
            targets=lora.targets,
            tokenizer=Path(tokenizer),
            card=text or card.adapter_card(Path(base), step),
        )


def export_checkpoint(
    source: Path, target: Path, shape: ModelConfig, tokenizer: str, *, text: str = "", chats: bool = False
) -> None:
    """Write the fp32 masters of a checkpoint as a `GPTBigCodeForCausalLM` folder with its tokenizer and card."""
    position = json.loads((source / MANIFEST).read_text())
    with store.opened(source) as masters:
        state = Exported(masters, shape, suffix=f".{store.MASTER}")
        own = text or card.model_card(shape, position["step"], chats=chats)
        write_model(target, shape, state, tokenizer=tokenizer, card=own)
