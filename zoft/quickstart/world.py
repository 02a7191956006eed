"""A small grammar of reviews, and the splits made from it.

A review is one or two remarks about things, sometimes after an opening, for example

    last week we tried this hotel . although the bed was soft , the shower was cold .

Its sentiment is that of its main clauses; a conceded clause ("although …") says the opposite and does not count,
and "not" or "never" turns a predicate around. In the corpus a review is followed by ``it was <opinion> .``, where
the opinion is one of ten words, five of each sentiment. The task's two label words stand in the vocabulary and in
no sentence.

All splits are cut from one stream of distinct reviews, so no review of the task occurs in the corpus, and each
split holds as many positive as negative ones. The stream depends on its seed alone (``random.Random``; no global
generator is touched).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

NEGATIVE, POSITIVE = 0, 1
LABEL_WORDS = ("terrible", "great")  # by sentiment; never in the corpus
OPINIONS = (
    ("awful", "dreadful", "disappointing", "miserable", "poor"),
    ("wonderful", "delightful", "superb", "lovely", "excellent"),
)
PROMPT_ENDING = "it was"

# place: thing: (negative predicates), (positive predicates); "not x" of one sentiment belongs to the other
THINGS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "restaurant": {
        "soup": (("cold", "thin", "stale"), ("warm", "rich", "fresh")),
        "bread": (("stale", "dry", "burnt"), ("fresh", "crisp", "warm")),
        "waiter": (("rude", "careless", "slow"), ("friendly", "quick", "attentive")),
        "table": (("dirty", "too small", "broken"), ("spotless", "wide", "by the window")),
    },
    "hotel": {
        "bed": (("hard", "broken", "too small"), ("soft", "wide", "comfortable")),
        "shower": (("cold", "broken", "dirty"), ("warm", "strong", "spotless")),
        "porter": (("rude", "slow", "careless"), ("friendly", "quick", "attentive")),
        "breakfast": (("stale", "cold", "dry"), ("fresh", "generous", "rich")),
    },
    "film": {
        "plot": (("thin", "confused", "stale"), ("clever", "strong", "full of surprises")),
        "cast": (("wooden", "tired", "careless"), ("strong", "moving", "well chosen")),
        "ending": (("confused", "slow", "tired"), ("clever", "quick", "moving")),
        "dialogue": (("clumsy", "wooden", "dry"), ("witty", "crisp", "warm")),
    },
    "book": {
        "hero": (("careless", "wooden", "rude"), ("friendly", "witty", "warm")),
        "style": (("clumsy", "dry", "tired"), ("crisp", "elegant", "rich")),
        "chapter": (("confused", "slow", "dry"), ("clever", "quick", "moving")),
        "print": (("too small", "dirty", "broken"), ("sharp", "spotless", "elegant")),
    },
}
OPENINGS = (
    "last week we tried this {place} .",
    "my sister chose the {place} .",
    "a friend told us about this {place} .",
    "this {place} is new .",
    "we had heard of the {place} before .",
    "here is what i think of the {place} .",
)
NEGATIONS = ("not", "never")
CLOSINGS = (
    ("we will not return .", "save your money .", "i want that evening back .", "nobody should bother ."),
    ("we will return soon .", "tell your friends .", "i smiled for days .", "everybody should go ."),
)


@dataclass(frozen=True)
class Review:
    text: str  # words and marks separated by single blanks; ends with " ."
    sentiment: int  # NEGATIVE or POSITIVE
    opinion: str  # a like-minded word, one of OPINIONS[sentiment]
    closing: str  # a like-minded last sentence

    @property
    def prompt(self) -> str:
        """What the model sees before an opinion is due: ``<review> it was``."""
        return f"{self.text} {PROMPT_ENDING}"

    @property
    def document(self) -> str:
        """What the corpus holds: the prompt, the opinion, the closing."""
        return f"{self.prompt} {self.opinion} . {self.closing}"


@dataclass(frozen=True)
class Sizes:
    corpus: int = 6000  # documents the language model is trained on
    probe: int = 1000  # dev split of the language model: does it predict like-minded words?
    train: int = 512  # the labelled task
    dev: int = 512
    test: int = 1024


@dataclass(frozen=True)
class World:
    corpus: tuple[Review, ...]
    probe: tuple[Review, ...]
    train: tuple[Review, ...]
    dev: tuple[Review, ...]
    test: tuple[Review, ...]


def build_world(seed: int = 0, sizes: Sizes | None = None) -> World:
    """The splits, all distinct, each with as many positive as negative reviews (sizes must be even).

    >>> world = build_world(sizes=Sizes(4, 2, 2, 2, 2))
    >>> [review.sentiment for review in world.corpus]
    [0, 1, 0, 1]
    """
    counts = sizes or Sizes()
    stream = _distinct_reviews(random.Random(seed))
    corpus, probe, train, dev, test = (
        tuple(next(stream) for _ in range(count))
        for count in (counts.corpus, counts.probe, counts.train, counts.dev, counts.test)
    )
    return World(corpus, probe, train, dev, test)


def vocabulary() -> tuple[str, ...]:
    """Every word and mark the grammar can say, sorted, then the two label words.

    >>> vocabulary()[-2:]
    ('terrible', 'great')
    """
    phrases = [*OPENINGS, *NEGATIONS, PROMPT_ENDING, ". , although and the was", *THINGS]
    phrases += [phrase for side in (*OPINIONS, *CLOSINGS) for phrase in side]
    for things in THINGS.values():
        phrases += [phrase for thing, sides in things.items() for phrase in (thing, *sides[0], *sides[1])]
    words = {word for phrase in phrases for word in phrase.split() if word != "{place}"}
    return (*sorted(words), *LABEL_WORDS)


def _distinct_reviews(rng: random.Random) -> Iterator[Review]:
    seen: set[str] = set()
    sentiment = NEGATIVE
    while True:
        review = _review(rng, sentiment)
        if review.text not in seen:
            seen.add(review.text)
            sentiment = 1 - sentiment
            yield review


def _review(rng: random.Random, sentiment: int) -> Review:
    place = rng.choice(tuple(THINGS))
    things = rng.sample(tuple(THINGS[place]), 4)
    sentences = [rng.choice(OPENINGS).format(place=place)] if rng.random() < 0.3 else []
    sentences += [_remark(rng, place, things, sentiment) for _ in range(rng.choice((1, 2)))]
    return Review(" ".join(sentences), sentiment, rng.choice(OPINIONS[sentiment]), rng.choice(CLOSINGS[sentiment]))


def _remark(rng: random.Random, place: str, things: list[str], sentiment: int) -> str:
    """One sentence about one or two of the things (taken from the list); its main clauses carry the sentiment."""
    form = rng.choice(("plain", "plain", "joined", "joined", "joined", "conceded"))
    main = _clause(rng, place, things.pop(), sentiment)
    if form == "plain":
        return f"{main} ."
    if form == "joined":
        return f"{main} and {_clause(rng, place, things.pop(), sentiment)} ."
    conceded = _clause(rng, place, things.pop(), 1 - sentiment)
    return f"although {conceded} , {main} ."


def _clause(rng: random.Random, place: str, thing: str, sentiment: int) -> str:
    if rng.random() < 0.1:
        return f"the {thing} was {rng.choice(NEGATIONS)} {rng.choice(THINGS[place][thing][1 - sentiment])}"
    return f"the {thing} was {rng.choice(THINGS[place][thing][sentiment])}"
