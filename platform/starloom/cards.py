"""The cards of a run: what a model and its data are, for whoever gets them, and what their publisher owes."""

import hashlib
from collections.abc import Mapping
from typing import Any

from starloom.config import Config
from starloom.errors import UserError
from starloom.governance.data_card import data_card
from starloom.governance.facts import Facts
from starloom.governance.model_card import model_card
from starloom.governance.publisher import Publisher
from starloom.kinds import Cards
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class CardsConfig(Config):
    """Who publishes, and under which terms."""

    publisher: Publisher


def run(config: CardsConfig, context: StepContext) -> Outcome:
    """Write the cards of the model and of the corpus among the inputs, and the licence's text.

    Raises:
        UserError: there is neither, or the licence's file cannot be read.
    """
    facts = Facts.of(config.publisher, context.inputs)
    cards = {}
    if facts.model is not None:
        cards[Cards.MODEL] = model_card(facts)
    if facts.corpus is not None:
        cards[Cards.DATA] = data_card(facts)
    if not cards:
        raise UserError(f"step {context.name}: needs names neither a model nor a corpus; there is nothing to describe")
    missing: dict[str, Mapping[str, Any]] = {}
    for name, card in cards.items():
        context.output.write_text(name, card.text())
        missing[name] = card.missing()
    text = config.publisher.license_text()
    if text is not None:
        context.output.write_text(Cards.LICENSE, text)
    derived = bool(config.publisher.base_model or (facts.model and facts.model.initial))
    return Outcome(rows_in=len(context.inputs), rows_out=len(cards), details=Cards.details(missing, derived))


def source_state(config: CardsConfig) -> Any:
    """The licence's text: another one makes the cards stale."""
    text = config.publisher.license_text()
    return hashlib.sha256(text.encode()).hexdigest() if text is not None else None


STEP = Step(config=CardsConfig, run=run, produces=Cards.kind, source_state=source_state)

if __name__ == "__main__":
    main(STEP)
