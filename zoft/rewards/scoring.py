"""How answers are scored: one word in a setting, one score for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoft.errors import UsageError
from zoft.evaluate import outcome
from zoft.metrics import Outcome, metric
from zoft.rewards.base import Reward, scores_of
from zoft.rewards.table import OF_LABELS, find_reward
from zoft.tasks.base import Example


@dataclass(frozen=True)
class Scoring:
    """Scores of answers to examples; an answer is the number of a candidate, or a text."""

    name: str  # as in reward=NAME
    reward: Reward | None  # None: the metric of that name

    @classmethod
    def of(cls, name: str, generates: bool) -> Scoring:
        """The one that `name` stands for.

        Args:
            generates: whether answers are free text.

        Raises:
            UsageError: there is none, or it counts chosen candidates where nothing is chosen.
        """
        found = cls(name, find_reward(name))
        if found.reward is None and generates and name in OF_LABELS:
            raise UsageError(
                f"reward={name} counts chosen candidates, but this task's answers are free text; use token_f1 or exact_match"
            )
        return found

    @property
    def per_example(self) -> bool:
        """Whether an example has a score of its own; F1 of labels, say, has one for the whole batch only."""
        return self.reward is not None or self.name not in OF_LABELS

    def __call__(self, examples: Sequence[Example], answers: Sequence[int | str]) -> list[float | None]:
        """One score for each example, larger is better; None where there is none.

        Raises:
            UsageError: the reward raised, or returned what is no score.
        """
        outcomes = [_with_answers(outcome(e, a), e) for e, a in zip(examples, answers, strict=True)]
        if self.reward is not None:
            said = ([e.prompt for e in examples], [o.text for o in outcomes], [o.answers for o in outcomes])
            return scores_of(self.name, self.reward, *said)
        measure = metric(self.name)
        if self.per_example:
            return [measure([one]) for one in outcomes]
        return [measure(outcomes)] * len(outcomes)

    def mean(self, examples: Sequence[Example], answers: Sequence[int | str]) -> float:
        """The mean over the examples that have a score; nan where none has one."""
        return mean_score(self(examples, answers))


def mean_score(scores: Sequence[float | None]) -> float:
    """
    >>> mean_score([1.0, None, 0.0])
    0.5
    """
    present = [score for score in scores if score is not None]
    return sum(present) / len(present) if present else float("nan")


def _with_answers(one: Outcome, example: Example) -> Outcome:
    """Its right answers in words, also where the right candidate is the only one."""
    if one.answers:
        return one
    names = example.names or tuple(candidate.strip() for candidate in example.candidates)
    return replace(one, answers=(names[example.gold],))
