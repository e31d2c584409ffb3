"""The fine-tuning step: conversations to token shards, the training loop of pre-training, a chat folder at the end."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from starloom.config import validate
from starloom.errors import UserError
from starloom.fetched import local_copy
from starloom.kinds import Conversations, Corpus, Model, Tokenizer
from starloom.model.adapter import is_adapter
from starloom.model.config import ModelConfig
from starloom.model.folder import check_names, read_config
from starloom.step import Outcome, StepContext
from starloom.tokenizer import CodeTokenizer, load_tokenizer, smallest_dtype
from starloom.tokens import FimConfig, TokenShardWriter
from train_jobs.config import LoopConfig, PretrainConfig, ShapeConfig
from train_jobs.finetuning.config import FinetuneConfig
from train_jobs.finetuning.conversations import Tally, from_commits, from_json_lines
from train_jobs.finetuning.template import END, ROLES, TEMPLATE, Dialogue, with_special_tokens
from train_jobs.job import Job
from train_jobs.loop.launch import announce, launch, on_object_store, origin_of, working_folder

DATA = "conversations"  # shards and tokenizer, in the artifact


def finetune(config: FinetuneConfig, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.finetune`.

    Raises:
        UserError: the model's window or the conversations are too short for the context.
    """
    initial = _initial(config, context)
    shape = read_config(initial)
    if config.context > shape.context:
        raise UserError(f"context = {config.context} is more than the model's {shape.context}; lower it")
    tokenizer = with_special_tokens(load_tokenizer(initial))
    folder = context.output.local_folder(DATA)
    (folder / Tokenizer.FILE).write_text(tokenizer.json_text, encoding="utf-8")
    _write_tokenizer_config(initial, folder)
    tally = Tally()
    counts = _write_shards(config, context, tokenizer, folder, tally)
    windows = max(0, counts["train"] - 1) // config.context
    if windows == 0:
        raise UserError(f"context = {config.context}: the conversations have only {counts['train']} tokens; lower it")
    settings = _settings(config, shape, windows)
    vocabulary = max(shape.vocabulary, tokenizer.size)
    _adds_no_rows(config, initial, vocabulary - shape.vocabulary)
    settings.layout.check(settings.shape(vocabulary), config.global_batch, config.micro_batch)
    context.say(
        f"{tally.kept:,} conversations, {counts['train']:,} tokens; {settings.steps:,} steps of "
        f"{config.global_batch * config.context:,} tokens"
    )
    context.output.publish(DATA)
    model = context.optional(Model.kind)
    job = Job(
        config=settings,
        train=(str(folder / "train"),),
        heldout=(str(folder / "heldout"),) if counts["heldout"] > config.context else (),
        dtype=smallest_dtype(tokenizer.size),
        vocabulary=vocabulary,
        tokenizer=str(folder / Tokenizer.FILE),
        output=working_folder(context),
        initial=str(initial),
        turns=(tokenizer.special(ROLES["assistant"]), tokenizer.special(END)),
        **on_object_store(
            context,
            (folder, context.output.path(DATA)),
            (initial, model.path(Model.FOLDER) if model else config.model_folder),
        ),
    )
    announce(job, context)
    launch(job, context.name)
    _end_turns(context.output.local_folder(Model.FOLDER), tokenizer)
    context.output.publish(Model.FOLDER)
    details = {"shape": job.shape.model_dump(mode="json"), "steps": settings.steps, "tokens": counts}
    return Outcome(
        rows_in=tally.kept + tally.dropped.total(),
        rows_out=tally.kept,
        dropped=dict(sorted(tally.dropped.items())),
        details={**details, "initial": origin_of(job, str(initial))},
    )


def _adds_no_rows(config: FinetuneConfig, initial: Path, rows: int) -> None:
    if config.lora and rows > 0:
        raise UserError(
            f"lora: {initial} has no rows for the tokens of a dialogue, and an adapter adds none; train all weights "
            "once, then adapters of that model"
        )


def _settings(config: FinetuneConfig, shape: ModelConfig, windows: int) -> PretrainConfig:
    """The training loop's own settings, for so many windows of the conversations."""
    steps = math.ceil(config.epochs * windows / config.global_batch)
    values = dict(
        model=ShapeConfig(**{**shape.model_dump(exclude={"vocabulary", "norm_epsilon"}), "dropout": config.dropout}),
        sequence=config.context,
        steps=steps,
        heldout_sequences=config.global_batch,
        fim=FimConfig(rate=0.0),
        **{name: getattr(config, name) for name in LoopConfig.model_fields},
    )
    return validate(PretrainConfig, values, where="finetune")  # settings that do not go together are one line


def _initial(config: FinetuneConfig, context: StepContext) -> Path:
    model = context.optional(Model.kind)
    if (model is None) == (not config.model_folder):
        raise UserError("model_folder: name either a folder here or a model among needs, not both")
    folder = Model(model).folder() if model else local_copy(config.model_folder)
    if is_adapter(folder):
        raise UserError(f"model_folder: {folder} is an adapter; name its base model, or merge the adapter first")
    check_names(folder, read_config(folder))
    return folder


def _dialogues(config: FinetuneConfig, context: StepContext, tally: Tally) -> Iterator[Dialogue]:
    made = [str(artifact.local(Conversations.FILE)) for artifact in context.every(Conversations.kind)]
    if not (made or config.conversations or config.commits):
        raise UserError("conversations is empty and commits is false; name files or a step, or set commits = true")
    yield from from_json_lines([*config.conversations, *made], tally)
    if config.commits:
        yield from from_commits(Corpus(context.only(Corpus.kind)), tally)


def _write_shards(
    config: FinetuneConfig, context: StepContext, tokenizer: CodeTokenizer, folder: Path, tally: Tally
) -> dict[str, int]:
    """Tokens by split. Held out is what a draw says; the others' order is drawn too, for neighbours share windows."""
    dtype = smallest_dtype(tokenizer.size)
    draws = np.random.Generator(np.random.Philox(key=[config.seed, 1]))
    documents: dict[str, list[np.ndarray]] = {"train": [], "heldout": []}
    for dialogue in _dialogues(config, context, tally):
        split = "heldout" if draws.random() < config.heldout_share else "train"
        documents[split].append(np.array(dialogue.ids(tokenizer), dtype=dtype))
    if tally.kept == 0:
        raise UserError(f"no conversation was kept; dropped: {json.dumps(tally.dropped)}")
    for split, held in documents.items():
        draws.shuffle(held)
        TokenShardWriter(dtype).write(context.output, f"{DATA}/{split}", held)
    return {split: sum(map(len, held)) for split, held in documents.items()}


def _write_tokenizer_config(initial: Path, folder: Path) -> None:
    source = initial / Tokenizer.SETTINGS
    settings = json.loads(source.read_text(encoding="utf-8")) if source.exists() else {}
    special = settings.get("additional_special_tokens", [])
    settings["additional_special_tokens"] = [*special, *(t for t in (*ROLES.values(), END) if t not in special)]
    settings["chat_template"] = TEMPLATE
    (folder / Tokenizer.SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _end_turns(folder: Path, tokenizer: CodeTokenizer) -> None:
    """Generation ends with the assistant's turn as well as with the text."""
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    settings["eos_token_id"] = [settings["eos_token_id"], tokenizer.special(END)]
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
