"""StarChat's dialogue: each turn opens with its role's token and closes with ``<|end|>``.

Roles and their tokens are those of StarChat (Tunstall et al. 2023). Message texts are encoded as text: whatever a
message says, it opens and closes no turn.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starloom.errors import UserError
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

ROLES: Final = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
END: Final = "<|end|>"
CHAT_TOKENS: Final = (*ROLES.values(), END)
# what `Dialogue.ids` makes, for servers and for transformers
TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True)
class Dialogue:
    """Turns in order; at least one is the assistant's."""

    messages: tuple[Message, ...]

    @classmethod
    def of(cls, record: Any, where: str) -> "Dialogue":
        """Read ``messages`` of role and content, or ``prompt``/``instruction`` with ``completion``/``output``.

        Raises:
            UserError: it is neither, a role is unknown, or the assistant says nothing.
        """
        if not isinstance(record, dict):
            raise UserError(f'{where}: is no object; write {{"messages": [...]}}')
        turns = record.get("messages")
        if turns is None:
            asked = next((record[key] for key in ("prompt", "instruction") if key in record), None)
            told = next((record[key] for key in ("completion", "output", "response") if key in record), None)
            if asked is None or told is None:
                raise UserError(f"{where}: has neither messages nor instruction and output; write one of them")
            context = f"\n\n{record['input']}" if record.get("input") else ""
            turns = [{"role": "user", "content": f"{asked}{context}"}, {"role": "assistant", "content": told}]
        messages = []
        for turn in turns if isinstance(turns, list) else [turns]:
            role = turn.get("role") if isinstance(turn, dict) else None
            content = turn.get("content") if isinstance(turn, dict) else None
            if role not in ROLES or not isinstance(content, str):
                raise UserError(f"{where}: a message needs a role ({', '.join(ROLES)}) and a content")
            messages.append(Message(role, content))
        if not any(message.role == "assistant" and message.content for message in messages):
            raise UserError(f"{where}: the assistant says nothing; there is nothing to learn from it")
        return cls(tuple(messages))

    def ids(self, tokenizer: CodeTokenizer) -> list[int]:
        """The tokens of `TEMPLATE`, and the end of the text."""
        line_end = tokenizer.encode("\n")
        ids: list[int] = []
        for message in self.messages:
            ids += [tokenizer.special(ROLES[message.role]), *tokenizer.encode(f"\n{message.content}")]
            ids += [tokenizer.special(END), *line_end]
        return [*ids, tokenizer.special(END_OF_TEXT)]


def with_special_tokens(tokenizer: CodeTokenizer, tokens: Sequence[str] = CHAT_TOKENS) -> CodeTokenizer:
    """The tokenizer with more special tokens, whose ids follow its own; those that it has already are kept."""
    described = json.loads(tokenizer.json_text)
    known = {token["content"] for token in described["added_tokens"]}
    number = tokenizer.size
    for token in tokens:
        if token not in known:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            described["added_tokens"].append({"id": number, "content": token, **flags})
            number += 1
    return CodeTokenizer(json.dumps(described, ensure_ascii=False, indent=1))
