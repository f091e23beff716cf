"""Beam search, as transformers spells it; vLLM's `use_beam_search` says the same with `num_beams`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from server.api.fields import StrictBody
from server.errors import InvalidRequest
from server.request import Beams, EarlyStopping

MAX_BEAMS = 8
LengthPenalty = Annotated[float, Field(ge=-10, le=10)]


class BeamParameters(StrictBody):
    """Search for the most probable text instead of choosing token by token; it comes whole, at the end."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    """How many texts to follow side by side; 1: none but the one. `stop` cuts the text that is found."""
    length_penalty: LengthPenalty | None = None
    """A text's log-probability is divided by its length to this power: above 0, long texts win."""
    early_stopping: bool | Literal["never"] | None = None
    """When to stop: true, at `num_beams` texts; false, once better is unlikely; "never", once impossible."""
    use_beam_search: bool | None = None

    @property
    def searches(self) -> bool:
        return self.num_beams is not None and self.num_beams > 1

    def to_beams(self) -> Beams | None:
        """None where nothing is searched. Raises InvalidRequest for what is given without `num_beams`."""
        self._check_searching()
        if not self.searches:
            return None
        return Beams(
            width=self.num_beams or 1,
            length_penalty=1.0 if self.length_penalty is None else self.length_penalty,
            early_stopping=_early_stopping(self.early_stopping),
        )

    def _check_searching(self) -> None:
        asked = {
            "length_penalty": self.length_penalty not in (None, 1.0),
            "early_stopping": self.early_stopping not in (None, False),
            "use_beam_search": bool(self.use_beam_search),
        }
        if self.use_beam_search is False and self.searches:
            raise InvalidRequest(
                "`use_beam_search` is false, but `num_beams` is above 1", parameter="use_beam_search"
            )
        for parameter, given in asked.items():
            if given and not self.searches:
                raise InvalidRequest(f"`{parameter}` needs `num_beams` above 1", parameter=parameter)


def _early_stopping(given: bool | str | None) -> EarlyStopping:
    if given == "never":
        return EarlyStopping.NEVER
    return EarlyStopping.AT_ONCE if given else EarlyStopping.WHEN_UNLIKELY
