"""Solved examples in front of a question, and the question without its passage."""

import pytest

from zoft.errors import UsageError
from zoft.tasks.base import Example
from zoft.tasks.calibration import without_passage
from zoft.tasks.demonstrations import demonstrated

SHOWN = [
    Example("a dull plot It was", (" bad", " good"), gold=0, row=1, passage=(0, 11)),
    Example("a bright film It was", (" bad", " good"), gold=1, row=2, passage=(0, 13), suffix="."),
]
QUESTION = Example("the film It was", (" bad", " good"), gold=1, row=3, passage=(0, 8))


class Words:
    """A tokenizer: a token a word, and one for the beginning."""

    def __call__(self, texts):
        return {"input_ids": [[0, *range(len(text.split()))] for text in texts]}


def test_demonstrations_stand_in_front_joined_by_a_blank_line():
    (asked,), fewer = demonstrated([QUESTION], SHOWN, Words(), max_length=100)
    assert asked.prompt == "a dull plot It was bad\n\na bright film It was good.\n\nthe film It was"
    assert asked.prompt[slice(*asked.passage)] == "the film"
    assert (asked.candidates, asked.gold, fewer) == (QUESTION.candidates, 1, 0)


@pytest.mark.parametrize(
    ("length", "reserve", "left"), [(18, 0, 2), (17, 0, 1), (12, 0, 1), (11, 0, 0), (2, 0, 0), (18, 1, 2), (18, 2, 1)]
)
def test_whole_demonstrations_go_first_one_first(length, reserve, left):
    # 1 + 6 + 6 + 5 tokens with an answer, 1 + 6 + 6 + 4 and the reserve without
    (asked,), fewer = demonstrated([QUESTION], SHOWN, Words(), max_length=length, reserve=reserve)
    assert asked.prompt.count("\n\n") == left and asked.prompt.endswith("the film It was")
    assert "a bright film" in asked.prompt or left == 0
    assert fewer == (left < 2)


def test_a_chat_takes_none():
    chat = Example("<user>the film", (" bad", " good"), gold=1, row=3, special=False)
    with pytest.raises(UsageError, match="row 3: demonstrations cannot stand in front of a chat"):
        demonstrated([chat], SHOWN, Words(), max_length=100)


def test_without_its_passage_the_question_remains():
    (asked,), _ = demonstrated([QUESTION], SHOWN[:1], Words(), max_length=100)
    assert without_passage(QUESTION).prompt == "It was"
    assert without_passage(asked).prompt == "a dull plot It was bad\n\n It was"
    for prompt, passage in (("the film", (0, 8)), ("the film", (0, 0))):
        with pytest.raises(UsageError, match="row 4: calibration"):
            without_passage(Example(prompt, (" a", " b"), 0, row=4, passage=passage))
