"""Blocks of the KV cache: counted references, and full blocks found again by the tokens that lead to them."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Key = bytes


@dataclass
class BlockPool:
    """`count` blocks of `size` tokens. Blocks that nobody uses keep their content until they are needed."""

    count: int
    size: int
    _references: dict[int, int] = field(default_factory=dict)
    _unused: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _by_key: dict[Key, int] = field(default_factory=dict)
    _keys: dict[int, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._unused.update(dict.fromkeys(range(self.count)))

    @property
    def free(self) -> int:
        """Blocks that no request holds."""
        return len(self._unused)

    def needed(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    def acquire(
        self, prompt: Sequence[int], tokens: int, spare: int = 0, adapter: int = -1
    ) -> tuple[list[int], int] | None:
        """A table for `tokens` tokens and how many of the prompt's are in it already; None when there is no room.

        There is room where `spare` blocks are left free besides. What one adapter has computed is no other's.
        At least the prompt's last token is left to compute, since its logits are wanted.
        """
        shared = self._shared(prompt, adapter)
        resting = sum(block in self._unused for block in shared)
        if self.needed(tokens) - len(shared) > self.free - resting - spare:
            return None
        for block in shared:
            self._unused.pop(block, None)
            self._references[block] = self._references.get(block, 0) + 1
        table = shared + [self._take() for _ in range(self.needed(tokens) - len(shared))]
        return table, len(shared) * self.size

    def extend(self, table: list[int], tokens: int) -> bool:
        """Let a table grow until so many tokens have room; False, and nothing is taken, where too few blocks are."""
        missing = self.needed(tokens) - len(table)
        if missing > self.free:
            return False
        table += [self._take() for _ in range(missing)]
        return True

    def publish(self, prompt: Sequence[int], table: Sequence[int], adapter: int = -1) -> None:
        """Let later prompts find the full blocks of a prompt that has been computed."""
        for key, block in zip(self._chain(prompt, adapter), table, strict=False):
            if key not in self._by_key:
                self._by_key[key], self._keys[block] = block, key

    def release(self, table: Sequence[int]) -> None:
        """Give the blocks back; the last of a prompt is reused before its beginning."""
        for block in reversed(table):
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                self._unused[block] = None

    def _take(self) -> int:
        block, _ = self._unused.popitem(last=False)
        key = self._keys.pop(block, None)
        if key is not None:
            del self._by_key[key]
        self._references[block] = 1
        return block

    def _shared(self, prompt: Sequence[int], adapter: int) -> list[int]:
        found = []
        for key in self._chain(prompt[:-1], adapter):
            if key not in self._by_key:
                break
            found.append(self._by_key[key])
        return found

    def _chain(self, prompt: Sequence[int], adapter: int) -> list[Key]:
        keys, parent = [], b"" if adapter < 0 else adapter.to_bytes(8, "little")
        for start in range(0, len(prompt) - self.size + 1, self.size):
            tokens = array("q", prompt[start : start + self.size]).tobytes()
            # a collision would show one user another's text: hence a cryptographic hash
            parent = hashlib.blake2b(parent + tokens, digest_size=32).digest()
            keys.append(parent)
        return keys
