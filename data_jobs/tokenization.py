"""The work of `data_jobs.train_tokenizer`: a sample stratified by language, in bounded memory, then BPE."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc

from data_jobs.shards import shard_names
from data_jobs.train_tokenizer import TrainTokenizerConfig
from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.step import Outcome, StepContext
from starloom.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, CodeTokenizer


def train(config: TrainTokenizerConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.train_tokenizer`."""
    corpus = context.only("corpus")
    limit = int(config.language_megabytes * 1e6)
    context.say(f"training {config.vocabulary:,} tokens on at most {config.language_megabytes:g} MB a language")
    counts: Counter[str] = Counter()
    tokenizer = train_bpe(sample(corpus, limit, counts), config.vocabulary, config.extra_special_tokens)
    if tokenizer.size < config.vocabulary:
        raise UserError(
            f"vocabulary = {config.vocabulary}: the corpus yields only {tokenizer.size} tokens; lower it or add text"
        )
    context.output.write_text("tokenizer.json", tokenizer.json_text)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "additional_special_tokens": [*SPECIAL_TOKENS, *config.extra_special_tokens],
        "clean_up_tokenization_spaces": False,
    }
    context.output.write_json("tokenizer_config.json", settings)
    return Outcome(rows_in=sum(counts.values()), rows_out=tokenizer.size)


def sample(corpus: Artifact, limit_bytes: int, counts: Counter[str]) -> Iterator[str]:
    """Texts of every language, at most `limit_bytes` of each: its share of each shard, so that all shards have a say.

    Adds to `counts` the files taken per language. One shard is in memory at a time.
    """
    sizes = corpus.read_json("languages.json")
    for shard in shard_names(corpus):
        table = corpus.read_table(f"data/{shard}", ["language", "content"])
        in_shard: Counter[str] = Counter()
        languages = table["language"].to_pylist()
        lengths = pc.binary_length(table["content"]).to_pylist()
        for language, length in zip(languages, lengths, strict=True):
            in_shard[language or ""] += length
        taken: Counter[str] = Counter()
        for batch in table.to_batches(max_chunksize=256):
            for row in batch.to_pylist():
                language = row["language"] or ""
                total = max(1, sizes.get(language, {"bytes": 1})["bytes"])
                quota = in_shard[language] * min(1.0, limit_bytes / total)
                if taken[language] < quota:
                    taken[language] += len(row["content"])
                    counts[language] += 1
                    yield row["content"]


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
