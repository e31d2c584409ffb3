"""Finished choices looked up in the index, where a request wishes it: told with their sources, or kept back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.attributor import Attributor, Wish


@dataclass(frozen=True)
class KeptChoice:
    """What a finished choice is told with, and whether its text is kept back."""

    told: dict[str, Any]
    blocks: bool = False


@dataclass(frozen=True)
class AttributedChoices:
    """Looks finished choices up."""

    attributor: Attributor | None
    wish: Wish | None
    prompts: Sequence[str]  # by number; a chat's answer stands alone
    choices: int = 1  # of each prompt

    @property
    def holds(self) -> bool:
        """Whether nothing may be sent before it was looked up."""
        return self.attributor is not None and self.wish == "block"

    async def of(self, number: int, text: str) -> KeptChoice:
        """What is told of a choice of the prompt of that number."""
        if self.attributor is None:
            return KeptChoice({})
        found = await self.attributor.of_completion(self.prompts[number] if self.prompts else "", text)
        return KeptChoice({"attribution": found}, blocks=self.wish == "block" and bool(found["matches"]))
