"""What `zoft evaluate` asks for beyond the settings of a run. Nothing here imports torch or Transformers."""

from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is asked, on which part of the data, and where the numbers go."""

    split: Literal["test", "dev"] = "test"  # dev is for choosing between models or prompts, test for reporting one
    demonstrations: int = (
        0  # solved training examples in front of each question (in-context learning); `seed` draws them
    )
    calibration: bool = False  # surface-form calibration: less what each candidate scores without the passage
    linear_probe: bool = False  # a linear classifier on hidden states, fitted to the training examples
    output: str | None = None  # json file for the numbers and every setting that was given

    def __post_init__(self) -> None:
        if self.demonstrations < 0:
            raise UsageError(f"demonstrations must be at least 0, but {self.demonstrations} was given")
        if self.linear_probe and (self.demonstrations or self.calibration):
            raise UsageError(
                "linear_probe reads hidden states of the bare prompt; leave demonstrations and calibration out"
            )
