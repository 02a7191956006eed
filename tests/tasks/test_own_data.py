"""A user's own texts, instructions and conversations: what is taught of them, what is dropped, what is refused."""

import copy
import json

import pytest

from zoft.errors import UsageError
from zoft.tasks import load_splits, resolve
from zoft.tasks.collate import IGNORED, Collator
from zoft.tasks.prepare import encode_task
from zoft.tasks.rows import rows_of_file
from zoft.tasks.splits import examples_of

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Was it good?"},
    {"role": "assistant", "content": "It was great."},
    {"role": "user", "content": "And the plot?"},
    {"role": "assistant", "content": "The plot was terrible."},
]
LAYOUTS = {
    "messages": {"messages": TURNS},
    "from and value": {
        "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}.get(turn["role"], turn["role"]), "value": turn["content"]}
            for turn in TURNS
        ]
    },
}


@pytest.fixture
def chat_tokenizer(causal_tokenizer):
    tokenizer = copy.deepcopy(causal_tokenizer)
    tokenizer.chat_template = TEMPLATE.replace("</s>", tokenizer.eos_token or tokenizer.sep_token)
    return tokenizer


def squeezed(text):
    return "".join(text.lower().replace("##", "").split())


def taught(dataset, tokenizer):
    """The tokens of each row that carry the loss."""
    labels = Collator.of(dataset, tokenizer)(dataset.items)["labels"]
    return [row[row != IGNORED].tolist() for row in labels]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_the_assistant_says_is_taught(chat_tokenizer, layout, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(LAYOUTS[layout]))
    task = resolve("chat").prompted_for("causal").worded_by(chat_tokenizer)
    examples = examples_of(task, rows_of_file(path, task))
    dataset = encode_task(task, examples, chat_tokenizer, 500, training=True)
    end = chat_tokenizer.eos_token or chat_tokenizer.sep_token
    said = [turn["content"] for turn in TURNS if turn["role"] == "assistant"]
    for text, tokens in zip(said, taught(dataset, chat_tokenizer), strict=True):
        assert squeezed(chat_tokenizer.decode(tokens)) == squeezed(text + end)
        assert chat_tokenizer.convert_tokens_to_ids(end) in tokens  # the model learns where a turn ends
    for number, row in enumerate(item.rows[0] for item in dataset):
        whole = chat_tokenizer.apply_chat_template(TURNS[: 2 * number + 3], tokenize=False)
        assert squeezed(chat_tokenizer.decode(row.ids)) == squeezed(whole)  # no special token twice


def test_a_long_conversation_loses_its_earliest_turns(chat_tokenizer):
    task = resolve("chat").worded_by(chat_tokenizer)
    examples = examples_of(task, [{"messages": TURNS}])
    (full,) = encode_task(task, examples[1:], chat_tokenizer, 500, training=True)
    limit = full.length - 12
    dataset = encode_task(task, examples[1:], chat_tokenizer, limit, training=True)
    assert dataset.shortened == 1 and dataset[0].length == limit
    text = squeezed(chat_tokenizer.decode(dataset[0].rows[0].ids))
    assert squeezed("Be kind.") in text and squeezed("And the plot?") in text and squeezed("Was it good?") not in text
    with pytest.raises(UsageError, match=r"row 1: \d+ tokens, of which \d+ are the passage, do not fit"):
        encode_task(task, examples[1:], chat_tokenizer, 20, training=True)


def test_instructions_are_conversations_of_two_turns(byte_level_tokenizer):
    tokenizer = copy.deepcopy(byte_level_tokenizer)
    tokenizer.chat_template = TEMPLATE
    task = resolve("chat").worded_by(tokenizer)
    for row in (
        {"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Add.\n\n1 2", "response": "3"},
        {"prompt": "Add.\n\n1 2", "completion": "3"},
    ):  # fmt: skip
        (example,) = examples_of(task, [row])
        assert example.prompt == "<|user|>\nAdd.\n\n1 2</s>\n<|assistant|>\n" and example.candidates == ("3</s>\n",)


def test_conversations_that_teach_nothing_are_named(byte_level_tokenizer):
    with pytest.raises(UsageError, match="task chat needs a tokenizer with a chat template"):
        resolve("chat").worded_by(byte_level_tokenizer)
    tokenizer = copy.deepcopy(byte_level_tokenizer)
    tokenizer.chat_template = TEMPLATE
    task = resolve("chat").worded_by(tokenizer)
    for messages, message in (
        (TURNS[:2], "the assistant says nothing"),
        ([TURNS[1], {"role": "assistant", "content": " "}], "the assistant's answer is empty"),
    ):
        with pytest.raises(UsageError, match=f"mine, row 1: {message}"):
            examples_of(task, [{"messages": messages}], "mine")
    tokenizer.chat_template = "{% for m in messages %}{{ raise_exception('turns must alternate') }}{% endfor %}"
    with pytest.raises(UsageError, match="mine, row 1: the chat template refuses this conversation: turns must"):
        examples_of(task, [{"messages": TURNS}], "mine")
    tokenizer.chat_template = "{% if add_generation_prompt %}Say: {% else %}{{ messages[-1].content }}{% endif %}"
    with pytest.raises(UsageError, match="mine, row 1: the chat template does not write the answer behind"):
        examples_of(task, [{"messages": TURNS[1:3]}], "mine")


def test_plain_text_is_taken_in_its_order(tmp_path, byte_level_tokenizer):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {n} of it\n\n" for n in range(20)))
    task = resolve("text")
    splits = load_splits(task, path, num_train=12, num_dev=4, num_test=4)
    assert [e.row for part in (splits.train, splits.dev, splits.test) for e in part] == list(range(1, 21))
    dataset = encode_task(task, splits.train, byte_level_tokenizer, 100, training=True)
    for number, tokens in enumerate(taught(dataset, byte_level_tokenizer)):
        assert byte_level_tokenizer.decode(tokens) == f"line {number} of it</s>"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"body": "a text"}) + "\n")
    (example,) = examples_of(named := resolve("text", target_column="body"), rows_of_file(rows, named))
    assert example.candidates == ("a text",)


def test_free_answers_in_a_column_of_ones_own(tmp_path, byte_level_tokenizer):
    path = tmp_path / "mine.csv"
    path.write_text('text,summary\n"a long, long text",short\n')
    task = resolve("custom", template="{text}\nIn short:", target_column="summary")
    (example,) = examples_of(task, rows_of_file(path, task))
    dataset = encode_task(task, [example], byte_level_tokenizer, 100, training=True)
    assert byte_level_tokenizer.decode(taught(dataset, byte_level_tokenizer)[0]) == " short\n"
    assert task.generates and task.metrics == ("token_f1", "exact_match")
