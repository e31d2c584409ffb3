"""The artifacts that cards are made from, and the front matter that the hub reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starloom.artifact import Artifact
from starloom.governance.publisher import Publisher
from starloom.governance.sections import passes
from starloom.kinds import Attribution, Collected, Corpus, Decisions, Evaluation, Memorization, Model, Tokens

# benchmarks as the hub names their data sets
DATASETS: Final = {"humaneval": ("openai_humaneval", "HumanEval"), "mbpp": ("mbpp", "MBPP")}
SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True)
class Facts:
    """What cards tell."""

    publisher: Publisher
    collected: Sequence[Collected] = ()
    decisions: Sequence[Decisions] = ()
    corpus: Corpus | None = None
    tokens: Tokens | None = None
    model: Model | None = None
    index: Attribution | None = None
    evaluations: Sequence[Evaluation] = ()
    memorizations: Sequence[Memorization] = ()
    position: Mapping[str, Any] = field(default_factory=dict)  # the checkpoint's own, of an export

    @classmethod
    def of(
        cls, publisher: Publisher, artifacts: Sequence[Artifact], position: Mapping[str, Any] | None = None
    ) -> "Facts":
        """From the inputs of a step; the last of a kind counts where a card has one of it."""
        kinds: dict[str, list[Artifact]] = {}
        for artifact in artifacts:
            kinds.setdefault(artifact.kind, []).append(artifact)

        def last(kind: str) -> Artifact | None:
            return kinds[kind][-1] if kind in kinds else None

        corpus, tokens, model, index = (last(k.kind) for k in (Corpus, Tokens, Model, Attribution))
        return cls(
            publisher=publisher,
            collected=[Collected(one) for one in kinds.get(Collected.kind, ())],
            decisions=[Decisions(one) for one in kinds.get(Decisions.kind, ())],
            corpus=Corpus(corpus) if corpus else None,
            tokens=Tokens(tokens) if tokens else None,
            model=Model(model) if model else None,
            index=Attribution(index) if index else None,
            evaluations=[Evaluation(one) for one in kinds.get(Evaluation.kind, ())],
            memorizations=[Memorization(one) for one in kinds.get(Memorization.kind, ())],
            position=position or {},
        )

    @property
    def opted_out(self) -> int:
        """Files that owners had taken out of the corpus."""
        stages = self.corpus.funnel() if self.corpus else []
        return sum(stage.dropped.get("opt_out", 0) for stage in stages)


def front_matter(values: Mapping[str, Any]) -> str:
    """YAML between rules; each value is written as JSON, which is YAML as well. Empty ones are left out."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    return "\n".join(["---", *lines, "---"])


def license_entries(publisher: Publisher) -> dict[str, Any]:
    """The licence as the hub's front matter has it."""
    return {
        "license": publisher.license,
        "license_name": publisher.license_name,
        "license_link": publisher.license_link or ("LICENSE" if publisher.license_file else None),
    }


def model_index(facts: Facts) -> list[dict[str, Any]]:
    """The ``model-index`` of our own results; none of it is verified by the hub."""
    results = []
    for evaluation in facts.evaluations:
        for benchmark, entry, k, value in passes(evaluation.results()):
            kind, name = DATASETS.get(benchmark, (benchmark, benchmark))
            metric = {"name": f"pass@{k}", "type": f"pass@{k}", "value": round(value, 6), "verified": False}
            results.append(
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"type": kind, "name": f"{name}, {entry['tasks']} tasks"},
                    "metrics": [metric],
                }
            )
    return [{"name": facts.publisher.model_name, "results": results}] if results else []


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((word for limit, word in SIZES if rows < limit), "n>10M")
