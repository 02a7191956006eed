"""Every task: its released format loads, prompt and label survive the tokenizer, known answers get their known score."""

import importlib.util
import json
from pathlib import Path

import pytest

from zoft.errors import UsageError
from zoft.evaluate import outcome
from zoft.metrics import metric
from zoft.tasks import TASKS, resolve
from zoft.tasks.collate import IGNORED, Collator
from zoft.tasks.prepare import encode_task
from zoft.tasks.rows import rows_of_file
from zoft.tasks.splits import examples_of

spec = importlib.util.spec_from_file_location("released", Path(__file__).with_name("released.py"))
assert spec is not None and spec.loader is not None
released = importlib.util.module_from_spec(spec)
spec.loader.exec_module(released)

every_miniature = pytest.mark.parametrize("mini", released.MINIATURES, ids=lambda mini: mini.task)


def loaded(mini, folder, architecture="causal"):
    path = folder / mini.file
    path.write_text(mini.text)
    task = resolve(mini.task).prompted_for(architecture)
    return task, examples_of(task, rows_of_file(path, task), path.name)


def whole(example):
    return example.prompt + example.candidates[example.gold]


def squeezed(text):
    """Text without what tokenizers may change: case, spaces, WordPiece's mark of a word that goes on."""
    return "".join(text.lower().replace("##", "").split())


def test_every_task_has_a_miniature():
    assert {mini.task for mini in released.MINIATURES} | {"text", "chat"} == set(TASKS)


@every_miniature
def test_a_released_file_is_read(mini, tmp_path):
    task, examples = loaded(mini, tmp_path)
    assert tuple(whole(example) for example in examples) == mini.read
    assert all(example.source == mini.file for example in examples)
    if not mini.masked:
        with pytest.raises(UsageError, match=f"task {mini.task} needs a causal model, not a masked one"):
            task.prompted_for("masked")
        return
    _, masked = loaded(mini, tmp_path, "masked")
    first = masked[0]
    lead = first.candidates[0].removesuffix(first.candidates[0].lstrip())
    assert first.prompt + lead + "[M]" + first.suffix == mini.masked
    assert [example.gold for example in masked] == [example.gold for example in examples]


@every_miniature
def test_answers_get_their_score(mini, tmp_path):
    task, examples = loaded(mini, tmp_path)
    outcomes = [outcome(example, answer) for example, answer in zip(examples, mini.said, strict=True)]
    assert {name: metric(name)(outcomes) for name in task.metrics} == pytest.approx(mini.scores, abs=0.005 / 3)
    assert list(mini.scores) == list(task.metrics)


@every_miniature
def test_the_answer_and_it_alone_carries_the_loss(mini, tmp_path, causal_tokenizer):
    task, examples = loaded(mini, tmp_path)
    for training in (True, False):
        dataset = encode_task(task, examples, causal_tokenizer, 600, training=training)
        items = [item.per_candidate() for item in dataset]
        batch = Collator.of(dataset, causal_tokenizer)(items)
        answers: list[str] = []
        for example, item in zip(examples, items, strict=True):
            answers += example.candidates if len(item.rows) > 1 else (example.candidates[example.gold],)
        for row, answer in zip(batch["labels"], answers, strict=True):
            assert squeezed(causal_tokenizer.decode(row[row != IGNORED])) == squeezed(answer)
    for example, item in zip(examples, encode_task(task, examples, causal_tokenizer, 600, training=False), strict=True):
        if not item.choices:
            continue
        prompt = causal_tokenizer.decode(item.rows[0].ids, skip_special_tokens=True)
        assert squeezed(prompt) == squeezed(example.prompt)


@pytest.mark.parametrize(("name", "row", "read"), released.HUB_ROWS, ids=[row[0] for row in released.HUB_ROWS])
def test_rows_of_the_hub_are_read(tmp_path, name, row, read):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    task = resolve(name)
    (example,) = examples_of(task, rows_of_file(path, task))
    assert whole(example) == read


def test_rows_of_the_hub_without_a_label_are_left_out():
    task = resolve("snli")
    rows = [{"premise": "A dog.", "hypothesis": "A cat.", "label": label} for label in (-1, 0)]
    (example,) = examples_of(task, rows)
    assert example.gold == 0 and example.row == 2


def test_finished_prompts_of_drop_are_taken_apart():
    row = {"context": "Passage: Ann ran.\nQuestion: Who ran?\nAnswer:", "completion": " Ann", "ref_text": "Ann|Ann Ray"}
    (example,) = examples_of(resolve("drop"), [row])
    assert whole(example) == "Ann ran.\n\nQ: Who ran?\nA: Ann\n" and example.answers == ("Ann", "Ann Ray")


WRONG = {
    "a label never seen": ("cb", {"premise": "a", "hypothesis": "b", "label": "perhaps"}, "label 'perhaps'.*allowed: ent"),
    "an empty candidate": (
        "copa", {"premise": "a", "question": "cause", "choice1": "b", "choice2": " ", "label": 0}, "candidate 2 of 2 is empty"
    ),
    "another question": (
        "copa", {"premise": "a", "question": "why", "choice1": "b", "choice2": "c", "label": 0}, "the question is 'why'"
    ),
    "a query without its gap": (
        "record", {"passage": "Ann.", "query": "who", "entities": ["Ann"], "answers": ["Ann"]}, "no @placeholder"
    ),
    "an answer nowhere": (
        "record", {"passage": "Ann.", "query": "@placeholder", "entities": ["Ann"], "answers": ["Bob"]}, "none of the answers"
    ),
    "two gaps": ("winogrande", {"sentence": "a _ b _", "option1": "c", "option2": "d", "answer": "1"}, "needs one gap"),
    "no answer": ("squad", {"context": "a", "question": "b", "answers": {"text": [], "answer_start": []}}, "is empty"),
    "nothing in a column": ("sst2", {"sentence": None, "label": 0}, "column 'sentence' is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named(case):
    name, wrong, message = WRONG[case]
    with pytest.raises(UsageError, match=f"mine, row 1: .*{message}"):
        examples_of(resolve(name), [wrong], "mine")


def test_an_answer_that_would_be_cut_away_is_named(byte_level_tokenizer):
    task = resolve("squad")
    (example,) = examples_of(
        task, [{"context": "It was so. " * 9, "question": "Why?", "answers": ["great " * 30]}], "mine"
    )
    with pytest.raises(UsageError, match=r"mine, row 1: \d+ tokens, of which \d+ are the passage, do not fit"):
        encode_task(task, [example], byte_level_tokenizer, 40, training=True)
