import random

import pytest

from zoft.errors import UsageError
from zoft.quickstart.task import QUICKSTART, SPLITS, WHAT_IT_SHOWS, examples, rows, splits
from zoft.quickstart.world import LABEL_WORDS, OPINIONS, THINGS, Sizes, World, build_world, vocabulary


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def parts(world: World):
    return (world.corpus, world.probe, world.train, world.dev, world.test)


def test_label_words_occur_in_no_sentence(world):
    for part in parts(world):
        for review in part:
            assert not set(LABEL_WORDS) & set(review.document.split())


def test_vocabulary_is_exactly_what_is_said_and_the_label_words(world):
    said = {word for part in parts(world) for review in part for word in review.document.split()}
    assert said | set(LABEL_WORDS) == set(vocabulary())
    assert len(set(vocabulary())) == len(vocabulary())


def test_splits_are_distinct_and_balanced(world):
    texts = [review.text for part in parts(world) for review in part]
    assert len(set(texts)) == len(texts)
    for part in parts(world):
        assert 2 * sum(review.sentiment for review in part) == len(part)


def test_same_seed_same_world_without_the_global_generator():
    random.seed(1)
    state = random.getstate()
    first = build_world(5, Sizes(40, 2, 2, 2, 2))
    assert first == build_world(5, Sizes(40, 2, 2, 2, 2))
    assert first != build_world(6, Sizes(40, 2, 2, 2, 2))
    assert random.getstate() == state


def test_sentiment_can_be_read_off_the_main_clauses(world):
    """A second reader: the predicates' sides decide, not and never turn them, conceded clauses are passed over."""
    for review in world.test:
        votes = [vote for clause in main_clauses(review.text) for vote in readings(clause)]
        assert votes
        assert set(votes) == {review.sentiment}


def main_clauses(text: str) -> list[str]:
    clauses = []
    for sentence in text.split(" ."):
        main = sentence.split(" , ")[-1] if sentence.strip().startswith("although") else sentence
        clauses += [clause.strip() for clause in main.split(" and the ")]
    return [clause for clause in clauses if " was " in clause]


def readings(clause: str) -> list[int]:
    subject, predicate = clause.split(" was ", 1)
    thing = subject.removeprefix("the ")
    negated = predicate.startswith(("not ", "never "))
    bare = predicate.split(" ", 1)[1] if negated else predicate
    sides = next(things[thing] for things in THINGS.values() if thing in things)
    return [side ^ negated for side in (0, 1) if bare in sides[side]]


def test_opinions_are_two_sets_of_five():
    assert [len(set(side)) for side in OPINIONS] == [5, 5]
    assert not set(OPINIONS[0]) & set(OPINIONS[1])


def test_examples_keep_to_the_contract_of_a_task(world):
    for split, reviews in (("train", world.train), ("dev", world.dev), ("test", world.test)):
        found = examples(split)
        assert [example.gold for example in found] == [review.sentiment for review in reviews]
        assert [example.prompt for example in found] == [review.prompt for review in reviews]
        assert {example.candidates for example in found} == {(" terrible", " great")}
    assert QUICKSTART.labels == ("0", "1")


def test_splits_hand_out_the_first_so_many():
    few = splits(num_train=4, num_dev=2)
    assert (len(few.train), len(few.dev), len(few.test)) == (4, 2, 1024)
    assert sum(example.gold for example in few.train) == 2
    for number in (0, 513, -1):
        with pytest.raises(UsageError, match="num_train"):
            splits(num_train=number)


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match=r"validation.*train, dev, test"):
        rows("validation")
    assert SPLITS == ("train", "dev", "test")


def test_it_says_that_the_task_is_easy():
    assert "easy" in WHAT_IT_SHOWS
    assert "does not show" in WHAT_IT_SHOWS
