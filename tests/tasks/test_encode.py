"""The answer's tokens, and only they, carry the loss; what is shortened is the passage's left end and nothing else."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from zoft.errors import UsageError
from zoft.tasks import Example, resolve
from zoft.tasks.collate import IGNORED, Collator
from zoft.tasks.encode import encode

SST2 = resolve("sst2")
RTE = resolve("rte")
EXAMPLES = [
    SST2.example({"sentence": "a charming and often affecting journey .", "label": 1}, 1),
    SST2.example({"sentence": "bleak", "label": 0}, 2),
    RTE.example({"premise": "the film is great .", "hypothesis": "the plot is good", "label": "entailment"}, 3),
    Example("Question: was it good? Answer:", (" Yes, it was.", " No, it was not."), 1, 4),
    Example("the acting", (" terrible , the plot charming", " is"), 0, 5),
    Example("the act", ("ing", "or"), 0, 6),  # no space: a tokenizer may merge over the seam
]


def squeezed(text):
    """Text without what tokenizers may change: case, spaces, WordPiece's mark of a word that goes on."""
    return "".join(text.lower().replace("##", "").split())


def test_answer_tokens_are_the_answer_and_nothing_else(causal_tokenizer):
    dataset = encode(EXAMPLES, causal_tokenizer, 200, share_prompt=False)
    for example, item in zip(EXAMPLES, dataset, strict=True):
        assert len(item.rows) == len(example.candidates)
        for candidate, row in zip(example.candidates, item.rows, strict=True):
            whole = causal_tokenizer(example.prompt + candidate, add_special_tokens=True)["input_ids"]
            assert list(row.ids) == whole[: len(row.ids)]  # the text as it is tokenised whole …
            assert all(token in causal_tokenizer.all_special_ids for token in whole[len(row.ids) :])  # … but for an end
            assert row.answer == tuple(range(row.answer[0], len(row.ids)))
            before = squeezed(causal_tokenizer.decode(row.ids[: row.answer[0]], skip_special_tokens=True))
            answer = squeezed(causal_tokenizer.decode(row.ids[row.answer[0] :]))
            assert before + answer == squeezed(example.prompt + candidate)
            if candidate.startswith(" ") or example.prompt.endswith("\n"):
                assert answer == squeezed(candidate)
            else:  # no more than the token over the seam comes along
                assert answer.endswith(squeezed(candidate))
                last = causal_tokenizer.decode(row.ids[row.answer[0] : row.answer[0] + 1])
                assert len(answer) - len(squeezed(candidate)) < max(len(squeezed(last)), 1)


def test_characters_that_a_tokenizer_leaves_out_do_not_move_the_answer():
    """A BPE without an unknown token drops them and counts on as if they had not been there."""
    letters = {letter: number for number, letter in enumerate(" abcdefghijklmnopqrstuvwxyz")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(letters, [])))
    for prompt in ("in 7 parts", "in 1999 and 2000", "of 12345678"):
        (item,) = encode([Example(prompt, (" good", " bad"), 0, 1, passage=(0, 4))], tokenizer, 100)
        said = ["".join(tokenizer.convert_ids_to_tokens([row.ids[i] for i in row.answer])) for row in item.rows]
        assert said == [" good", " bad"]
    (item,) = encode([Example("in 77 parts", (" good  ", " bad "), 0, 1)], tokenizer, 100)
    said = ["".join(tokenizer.convert_ids_to_tokens([row.ids[i] for i in row.answer])) for row in item.rows]
    assert said == [" good  ", " bad "]


def test_labels_of_the_batch_are_the_answers_tokens(causal_tokenizer):
    dataset = encode(EXAMPLES, causal_tokenizer, 200, share_prompt=False)
    batch = Collator.of(dataset, causal_tokenizer)(dataset.items)
    rows = [row for item in dataset for row in item.rows]
    assert batch["gold"].tolist() == [example.gold for example in EXAMPLES]
    assert batch["input_ids"].shape[0] == len(rows) and batch["input_ids"].shape[1] % 8 == 0
    for index, row in enumerate(rows):
        labels = batch["labels"][index]
        assert labels[labels != IGNORED].tolist() == list(row.ids[row.answer[0] :])
        assert batch["labels"][index, -1] == row.ids[-1]  # answers end at the right edge
        assert batch["attention_mask"][index].sum() == len(row.ids)
        assert batch["input_ids"][index, -len(row.ids) :].tolist() == list(row.ids)
    supervised = {t for row in (batch["labels"] != IGNORED) for t in row.nonzero().flatten().tolist()}
    assert batch["outputs"].tolist() == sorted(t - 1 for t in supervised)


def test_one_row_serves_one_token_answers(byte_level_tokenizer):
    (item,) = encode(EXAMPLES[:1], byte_level_tokenizer, 200)
    (apart,) = encode(EXAMPLES[:1], byte_level_tokenizer, 200, share_prompt=False)
    assert len(item.rows) == 1 and item.candidates == 2
    assert item.per_candidate() == apart
    assert byte_level_tokenizer.decode([item.choices[1]]) == " great"


def test_a_passage_loses_its_left_end_and_nothing_else(causal_tokenizer):
    sentence = "wonderfully charming " * 30 + "and bleak"
    example = SST2.example({"sentence": sentence, "label": 0}, 9)
    (full,) = encode([example], causal_tokenizer, 10_000, share_prompt=False)
    limit = full.length - 25
    dataset = encode([example], causal_tokenizer, limit, share_prompt=False)
    assert dataset.shortened == 1 and dataset.shortened_share == 1.0
    for short, row in zip(dataset[0].rows, full.rows, strict=True):
        assert len(short.ids) <= limit
        special = next(i for i, t in enumerate(row.ids) if t not in causal_tokenizer.all_special_ids)
        lost = len(row.ids) - len(short.ids)
        assert short.ids == row.ids[:special] + row.ids[special + lost :]
        assert short.answer == tuple(i - lost for i in row.answer)


def test_what_cannot_fit_names_its_row(causal_tokenizer):
    example = Example("was it good? " * 20 + "Answer:", (" Yes", " No"), 0, 17, "my.tsv", passage=(0, 13))
    with pytest.raises(UsageError, match=r"my\.tsv, row 17: \d+ tokens, of which \d+ are the passage"):
        encode([example], causal_tokenizer, 30)


def test_the_mask_stands_where_the_answer_goes(masked_tokenizer):
    examples = [
        SST2.prompted_for("masked").example({"sentence": "a charming film , it is great", "label": 1}, 1),
        RTE.prompted_for("masked").example({"premise": "it was.", "hypothesis": "it was", "label": 1}, 2),
    ]
    dataset = encode(examples, masked_tokenizer, 100, "masked")
    for example, item in zip(examples, dataset, strict=True):
        ids = item.rows[0].ids
        assert ids[item.read_at] == masked_tokenizer.mask_token_id
        before = masked_tokenizer.decode(ids[: item.read_at], skip_special_tokens=True)
        after = masked_tokenizer.decode(ids[item.read_at + 1 :], skip_special_tokens=True)
        assert squeezed(before) == squeezed(example.prompt) and squeezed(after) == squeezed(example.suffix)
        for token, word in zip(item.choices, example.candidates, strict=True):
            assert squeezed(word).startswith(squeezed(masked_tokenizer.decode([token])))
            inside = masked_tokenizer("it was" + word, add_special_tokens=False)["input_ids"]
            assert token in inside  # the token as it is in running text
    batch = Collator.of(dataset, masked_tokenizer)(dataset.items)
    assert batch["attention_mask"][:, 0].tolist() == [
        1,
        1,
    ]  # encoders count positions from the left: padded on the right
    reads = batch["input_ids"][[0, 1], batch["read_at"]]
    assert reads.tolist() == [masked_tokenizer.mask_token_id] * 2


def test_masked_words_that_begin_alike_are_refused(masked_tokenizer):
    task = resolve("sst2", label_words={"0": "great", "1": "greatly"})
    example = task.example({"sentence": "bleak", "label": 0}, 3)
    tokens = [masked_tokenizer("x " + w, add_special_tokens=False)["input_ids"] for w in task.label_words.values()]
    assert tokens[0][1] == tokens[1][1], "the words of this test must share their first token"
    with pytest.raises(UsageError, match=r"row 3: the label words ' great' and ' greatly' begin with the same"):
        encode([example], masked_tokenizer, 50, "masked")


def test_a_text_with_a_mask_of_its_own_is_refused(masked_tokenizer):
    example = SST2.example({"sentence": f"so {masked_tokenizer.mask_token} good", "label": 0}, 5)
    with pytest.raises(UsageError, match="row 5: the text itself contains"):
        encode([example], masked_tokenizer, 50, "masked")


def test_words_after_the_answer_are_refused_for_causal_models(byte_level_tokenizer):
    task = resolve("sst2", template="{answer} is what I say of {sentence}")
    example = task.example({"sentence": "this", "label": 0}, 4)
    with pytest.raises(UsageError, match=r"row 4: .*put \{answer\} at the end"):
        encode([example], byte_level_tokenizer, 50)


def test_candidates_that_are_the_same_tokens_are_refused(wordpiece):

    example = Example("the film is", (" great", " GREAT"), 0, 8)
    with pytest.raises(UsageError, match="row 8: candidates ' great' and ' GREAT' are the same tokens"):
        encode([example], wordpiece, 50)


def test_the_right_answer_alone_for_teacher_forcing(byte_level_tokenizer):
    dataset = encode(EXAMPLES, byte_level_tokenizer, 200, answers="gold")
    for example, item in zip(EXAMPLES, dataset, strict=True):
        assert len(item.rows) == 1 and item.gold == 0
        whole = example.prompt + example.candidates[example.gold]
        assert byte_level_tokenizer.decode(item.rows[0].ids, skip_special_tokens=True) == whole


def test_padding_never_exceeds_what_the_model_can_read(byte_level_tokenizer):
    dataset = encode(EXAMPLES[1:2], byte_level_tokenizer, 13)
    length = dataset[0].length
    assert Collator.of(dataset, byte_level_tokenizer, length)(dataset.items)["input_ids"].shape[1] == length


def test_numbers_of_candidates_may_differ(byte_level_tokenizer):
    examples = [
        Example("the film is", (" great", " terrible", " bleak"), 2, 1),
        Example("the plot is", (" great", " terrible"), 0, 2),
    ]
    dataset = encode(examples, byte_level_tokenizer, 50)
    batch = Collator.of(dataset, byte_level_tokenizer)(dataset.items[1:])
    table = batch["candidate_rows"] if "candidate_rows" in batch else batch["choices"]
    assert table.shape == (1, 3) and table[0, 2] == -1
