"""Fields that several dialects have."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

StopText = Annotated[str, Field(max_length=256)]
Stop = Annotated[list[StopText], Field(max_length=16)]


class Message(BaseModel):
    """One turn; `content` may be a list of text parts."""

    role: str = Field(max_length=32)
    content: str | list[dict[str, Any]] | None = ""

    def plain(self) -> dict[str, str]:
        """Role and text."""
        if isinstance(self.content, list):
            return {"role": self.role, "content": "".join(str(part.get("text", "")) for part in self.content)}
        return {"role": self.role, "content": self.content or ""}
