"""Train the byte-level BPE tokenizer on a sample of the corpus: stratified by language, in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc
from pydantic import Field

from data_jobs.verdicts import rows
from starloom.artifact import Artifact
from starloom.config import Config
from starloom.errors import UserError
from starloom.kinds import Corpus, Tokenizer, data_file
from starloom.program import main
from starloom.records import texts
from starloom.step import Count, Outcome, Step, StepContext
from starloom.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, CodeTokenizer

BYTES = 256


class TrainTokenizerConfig(Config):
    """Size of the vocabulary, and how much text of each language it is trained on."""

    vocabulary: int = Field(49_152, ge=BYTES + len(SPECIAL_TOKENS), le=1 << 31)
    extra_special_tokens: tuple[str, ...] = ()  # after StarCoder's: <repo_name> and <file_sep> for repository documents
    language_megabytes: float = Field(100.0, gt=0)  # at most this much of each language, spread over all shards


def run(config: TrainTokenizerConfig, context: StepContext) -> Outcome:
    """Train a byte-level BPE with StarCoder's special tokens; write tokenizer.json.

    Raises:
        UserError: the corpus has too little text for the vocabulary.
    """
    corpus = context.only(Corpus.kind)
    limit = int(config.language_megabytes * 1e6)
    context.say(f"training {config.vocabulary:,} tokens on at most {config.language_megabytes:g} MB a language")
    counts: Counter[str] = Counter()
    tokenizer = train_bpe(sample(corpus, limit, counts), config.vocabulary, config.extra_special_tokens)
    if tokenizer.size < config.vocabulary:
        raise UserError(
            f"vocabulary = {config.vocabulary}: the corpus yields only {tokenizer.size} tokens; lower it or add text"
        )
    context.output.write_text(Tokenizer.FILE, tokenizer.json_text)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "additional_special_tokens": [*SPECIAL_TOKENS, *config.extra_special_tokens],
        "clean_up_tokenization_spaces": False,
    }
    context.output.write_json(Tokenizer.SETTINGS, settings)
    return Outcome(rows_in=sum(counts.values()), rows_out=tokenizer.size)


def sample(corpus: Artifact, limit_bytes: int, counts: Counter[str]) -> Iterator[str]:
    """Texts of every language, at most `limit_bytes` of each: its share of each shard, so that all shards have a say.

    Of records with parts it is the text that training sees. Adds to `counts` the rows taken per language. One shard is
    in memory at a time.
    """
    view = Corpus(corpus)
    sizes = view.languages()
    for shard in view.shards():
        table = view.table(shard, ["language", "kind", "content"])
        lengths = pc.binary_length(table["content"]).to_pylist()  # bytes, as the quota
        in_shard: Counter[str] = Counter()
        for language, length in zip(table["language"].to_pylist(), lengths, strict=True):
            in_shard[language or ""] += length
        taken: Counter[str] = Counter()
        for row, length in zip(rows(table), lengths, strict=True):
            language = row["language"] or ""
            total = max(1, sizes.get(language, {"bytes": 1})["bytes"])
            if taken[language] < in_shard[language] * min(1.0, limit_bytes / total):
                taken[language] += length
                counts[language] += 1
                yield from texts(row["kind"], row["content"])


def train_bpe(texts: Iterator[str], vocabulary: int, extra_special_tokens: Sequence[str] = ()) -> CodeTokenizer:
    """Byte-level BPE: no normalizer, digits one by one, GPT-2's split; the special tokens have the first ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL_TOKENS, *extra_special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return CodeTokenizer(tokenizer.to_str())


STEP = Step(
    config=TrainTokenizerConfig,
    run=run,
    produces=Tokenizer.kind,
    consumes={Corpus.kind: Count.ONE},
    reads={Corpus.kind: (data_file(""), Corpus.LANGUAGES)},
)

if __name__ == "__main__":
    main(STEP)
