"""What no artifact knows: who publishes a model and its data, under which terms, whom to ask."""

from pathlib import Path
from typing import Final

from pydantic import model_validator

from starloom.config import Config
from starloom.errors import UserError

NOT_STATED: Final = "Not stated by the publisher."
OPENRAIL: Final = ("bigcode-openrail-m", "bigscience-openrail-m", "creativeml-openrail-m", "openrail", "openrail++")


class Publisher(Config):
    """Settings of `starloom.cards` and of an export. What is left out is printed as not stated, and never invented.

    ``license`` is an id as the hub has it, or ``other`` with a name and a link or a text. A model that is published
    under an OpenRAIL licence needs the licence's own text as ``license_file``: it must go with every copy.
    """

    name: str
    contact: str
    license: str
    license_name: str | None = None
    license_link: str | None = None
    license_file: str | None = None
    model_name: str = "model"
    data_name: str = "corpus"
    data_terms: str | None = None  # under which the corpus itself may be used
    intended_use: str | None = None
    out_of_scope: str | None = None
    base_model: str | None = None
    base_license: str | None = None
    changes: str | None = None  # what was done to the base model, and its notices that are kept
    search_page: str | None = None  # the URL of /search of a service with the index
    asking_out: str | None = None  # how somebody asks to be left out
    citation: str | None = None

    @model_validator(mode="after")
    def _terms_are_whole(self) -> "Publisher":
        if self.license == "other" and not (self.license_name and (self.license_link or self.license_file)):
            raise ValueError("license = 'other' needs license_name, and license_link or license_file")
        if self.is_openrail and not self.license_file:
            raise ValueError(
                f"license = {self.license!r} needs its text: give license_file, a copy of it goes with the model"
            )
        if self.base_license in OPENRAIL and not self.is_openrail:
            raise ValueError(
                f"base_license = {self.base_license!r} binds what is made from it; license must be OpenRAIL as well"
            )
        return self

    @property
    def is_openrail(self) -> bool:
        """Whether the licence's use restrictions bind whoever passes the model on."""
        return self.license in OPENRAIL

    def license_text(self) -> str | None:
        """The text of the licence; None where no file is named.

        Raises:
            UserError: the file cannot be read, or has nothing in it.
        """
        if self.license_file is None:
            return None
        try:
            text = Path(self.license_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"license_file = {self.license_file!r}: cannot be read: {error}") from None
        if not text.strip():
            raise UserError(f"license_file = {self.license_file!r}: is empty; give the licence's own text")
        return text
