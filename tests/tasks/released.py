"""Miniatures of every task's released file: what it holds, what a model reads of it, and what answers to it score."""

from __future__ import annotations

import json
from typing import NamedTuple


class Miniature(NamedTuple):
    task: str
    file: str  # its name, as the format is told by its ending
    text: str
    read: tuple[str, ...]  # prompt and right answer of each row, as the model reads them
    masked: str  # the first row for a masked language model, [M] the mask; empty: no such prompt
    said: tuple[int | str, ...]  # an answer to each row: number of a candidate, or a text
    scores: dict[str, float]  # of these answers, worked out by hand


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


SENTENCES = [
    Miniature(
        "sst2", "train.tsv", 'sentence\tlabel\na "fine" film \t1\ndull \t0\n',
        ('a "fine" film It was great', "dull It was terrible"), 'a "fine" film It was [M].', (1, 1), {"accuracy": 1 / 2},
    ),
    Miniature(
        "sst5", "train.txt", "3 a fine film .\n0 dull\n2 so so\n",
        ("a fine film . It was good", "dull It was terrible", "so so It was okay"), "a fine film . It was [M].",
        (3, 0, 1), {"accuracy": 2 / 3},
    ),
    Miniature(
        "mr", "train.csv", '1,"a fine, long film"\n0,dull\n',
        ("a fine, long film It was great", "dull It was terrible"), "a fine, long film It was [M].", (1, 0), {"accuracy": 1},
    ),
    Miniature("cr", "train.csv", "0,it broke\n", ("it broke It was terrible",), "it broke It was [M].", (1,), {"accuracy": 0}),
    Miniature("mpqa", "train.csv", "1,is keen\n", ("is keen It was great",), "is keen It was [M].", (1,), {"accuracy": 1}),
    Miniature(
        "subj", "train.csv", "0,i laughed\n1,he leaves\n",
        ("i laughed This is subjective", "he leaves This is objective"), "i laughed This is [M].", (0, 0),
        {"accuracy": 1 / 2},
    ),
    Miniature(
        "trec", "train.txt", "DESC:manner How does it end ?\nNUM:count How many ?\n",
        ("How does it end ?\nThe answer is of the kind Description", "How many ?\nThe answer is of the kind Number"),
        "[M]: How does it end ?", (0, 5), {"accuracy": 1},
    ),
    Miniature(
        "cola", "in_domain_train.tsv", "gj04\t1\t\tHe \"left\".\ngj04\t0\t*\tLeft he.\nks08\t1\t\tGo.\nks08\t0\t*\tTo go he.\n",
        ('He "left". This is correct', "Left he. This is incorrect", "Go. This is correct", "To go he. This is incorrect"),
        'He "left". This is [M].', (1, 0, 1, 1), {"matthews": 2 / 12**0.5},  # TP 2, TN 1, FP 1, FN 0
    ),
    Miniature(
        "agnews", "test.csv", '"2","A cup","They \\won, twice."\n"4","Chips","Smaller."\n',
        ("A cup They \\won, twice.\nThis is news about Sports", "Chips Smaller.\nThis is news about Tech"),
        "[M] news: A cup They \\won, twice.", (1, 3), {"accuracy": 1},
    ),
]  # fmt: skip

PAIRS = [
    Miniature(
        "rte", "train.tsv", 'index\tsentence1\tsentence2\tlabel\n0\tIt "rains".\tIt pours.\tnot_entailment\n',
        ('It "rains".\nFrom this, does it follow that "It pours."? Yes or No?\nNo',),
        'It "rains". Right? [M], It pours.', (0,), {"accuracy": 0},
    ),
    Miniature(
        "snli", "train.jsonl",
        lines({"sentence1": "A dog runs.", "sentence2": "It moves.", "gold_label": "entailment"},
              {"sentence1": "A dog runs.", "sentence2": "A cat.", "gold_label": "-"},
              {"sentence1": "A dog runs.", "sentence2": "It is old.", "gold_label": "neutral"}),
        ('A dog runs.\nFrom this, does it follow that "It moves."? Yes, No or Maybe?\nYes',
         'A dog runs.\nFrom this, does it follow that "It is old."? Yes, No or Maybe?\nMaybe'),
        "A dog runs. Right? [M], It moves.", (0, 1), {"accuracy": 1},
    ),
    Miniature(
        "mnli", "train.tsv", "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\tfiction\tHe left.\tHe stayed.\tneutral\tcontradiction\n",
        ('He left.\nFrom this, does it follow that "He stayed."? Yes, No or Maybe?\nNo',),
        "He left. Right? [M], He stayed.", (2,), {"accuracy": 1},
    ),
    Miniature(
        "mnli_mismatched", "dev_mismatched.tsv",
        "sentence1\tsentence2\tlabel1\tgold_label\nHe left.\tHe went.\tneutral\tneutral\tentailment\tentailment\n",
        ('He left.\nFrom this, does it follow that "He went."? Yes, No or Maybe?\nYes',),
        "He left. Right? [M], He went.", (0,), {"accuracy": 1},
    ),
    Miniature(
        "qnli", "train.tsv", "index\tquestion\tsentence\tlabel\n0\tWho left?\tBob left.\tentailment\n",
        ('Bob left.\nDoes this answer the question "Who left?"? Yes or No?\nYes',), "Who left? Right? [M], Bob left.",
        (0,), {"accuracy": 1},
    ),
    Miniature(
        "mrpc", "train.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tBob left.\tBob went.\n"
        "0\t7\t9\tBob left.\tAnn left.\n1\t7\t5\tBob left.\tOff Bob went.\n",
        tuple(f"Bob left.\n{other}\nDo both sentences say the same? Yes or No?\n{answer}"
              for other, answer in (("Bob went.", "Yes"), ("Ann left.", "No"), ("Off Bob went.", "Yes"))),
        "Bob left. [M], Bob went.", (1, 1, 0), {"f1": 1 / 2, "accuracy": 1 / 3},  # 2*1 / (2 + 2)
    ),
    Miniature(
        "qqp", "train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWho?\tWhich one?\t1\n1\t3\tWhy?\n",
        ("Who?\nWhich one?\nDo both questions ask the same? Yes or No?\nYes",), "Who? [M], Which one?", (1,),
        {"f1": 1, "accuracy": 1},
    ),
]  # fmt: skip

ASKED = 'The sun rose. Ann woke.\n{}\nIs "{}" a right answer? Yes or No?\n{}'
PASSAGES = [
    Miniature(
        "cb", "train.jsonl",
        lines(*({"premise": "He thinks so.", "hypothesis": "it is so", "label": label}
                for label in ("entailment", "contradiction", "neutral", "neutral"))),
        tuple(f'He thinks so.\nGoing by this, is it true that "it is so"? Yes, No or Maybe?\n{word}'
              for word in ("Yes", "No", "Maybe", "Maybe")),
        "He thinks so. Right? [M], it is so", (0, 0, 2, 2), {"accuracy": 3 / 4, "macro_f1": (2 / 3 + 0 + 1) / 3},
    ),
    Miniature(
        "boolq", "val.jsonl", lines({"question": "is it hot", "passage": "Sun -- It is hot.", "label": True, "idx": 0}),
        ("Sun -- It is hot.\nIs it hot?\nYes",), "Sun -- It is hot. Is it hot? [M].", (1,), {"accuracy": 1},
    ),
    Miniature(
        "wsc", "train.jsonl",
        lines({"text": "Bob saw Al. He waved.", "label": False,
               "target": {"span2_index": 3, "span1_index": 0, "span1_text": "Bob", "span2_text": "He"}}),
        ('Bob saw Al. He waved.\nIn this text, does "he" mean Bob? Yes or No?\nNo',),
        'Bob saw Al. He waved. Here "he" means Bob: [M].', (1,), {"accuracy": 0},
    ),
    Miniature(
        "wic", "train.jsonl",
        lines({"word": "run", "sentence1": "Run off.", "sentence2": "A run.", "label": True, "start1": 0, "end1": 3}),
        ('Run off.\nA run.\nDoes "run" mean the same in both sentences? Yes or No?\nYes',),
        'Run off. A run. "run" means the same in both: [M].', (1,), {"accuracy": 1},
    ),
    Miniature(
        "multirc", "train.jsonl",
        lines({"idx": 4, "passage": {"text": "The sun rose. Ann woke.", "questions": [
            {"question": "Who woke?", "idx": 0,
             "answers": [{"text": "Ann", "label": 1, "idx": 0}, {"text": "Bob", "label": 0, "idx": 1}]},
            {"question": "What rose?", "idx": 1,
             "answers": [{"text": "The sun", "label": 1, "idx": 2}, {"text": "The moon", "label": 0, "idx": 3}]}]}}),
        (ASKED.format("Who woke?", "Ann", "Yes"), ASKED.format("Who woke?", "Bob", "No"),
         ASKED.format("What rose?", "The sun", "Yes"), ASKED.format("What rose?", "The moon", "No")),
        'The sun rose. Ann woke. Who woke? "Ann" is a right answer: [M].', (1, 0, 1, 1),
        {"accuracy": 3 / 4, "f1": 2 * 2 / (3 + 2), "question_em": 1 / 2},  # F1a: 2 of 3 named are right, 2 of 2 found
    ),
]  # fmt: skip

CHOICES = [
    Miniature(
        "copa", "train.jsonl",
        lines({"premise": "I slept.", "choice1": "I was tired.", "choice2": "He sang.", "question": "cause", "label": 0},
              {"premise": "It rained.", "choice1": "He sang.", "choice2": "The road was wet.", "question": "effect",
               "label": 1}),
        ("I slept because I was tired.", "It rained so the road was wet."), "", (0, 0), {"accuracy": 1 / 2},
    ),
    Miniature(
        "record", "train.jsonl",
        lines({"source": "Daily Mail", "idx": 0,
               "passage": {"text": "Ann met Bob Ray.\n@highlight\nBob waved",
                           "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 14}, {"start": 28, "end": 30}]},
               "qas": [{"idx": 0, "query": "They saw @placeholder wave",
                        "answers": [{"start": 8, "end": 14, "text": "Bob Ray"}, {"start": 28, "end": 30, "text": "Bob"}]},
                       {"idx": 1, "query": "@placeholder met him", "answers": [{"text": "Ann"}]}]}),
        ("Ann met Bob Ray.\n- Bob waved\n\nThey saw Bob Ray wave", "Ann met Bob Ray.\n- Bob waved\n\nAnn met him"),
        # Bob is right beside Bob Ray; for Ann, Bob Ray is said: nothing shared
        "", (2, 1), {"accuracy": 1 / 2, "token_f1": 1 / 2, "exact_match": 1 / 2},
    ),
    Miniature(
        "winogrande", "train_m.jsonl",
        lines({"sentence": "The cup hit the box, so the _ broke.", "option1": "cup", "option2": "box", "answer": "1"}),
        ("The cup hit the box, so the cup broke.",), "", (0,), {"accuracy": 1},
    ),
]  # fmt: skip

GENERATED = [
    Miniature(
        "squad", "dev-v1.1.json",
        json.dumps({"version": "1.1", "data": [{"title": "A_B", "paragraphs": [{"context": "Ann met Bob Ray.", "qas": [
            {"id": "1", "question": "Who met Bob?", "answers": [{"text": "Ann", "answer_start": 0}]},
            {"id": "2", "question": "Whom?", "answers": [{"text": "Bob Ray", "answer_start": 8},
                                                        {"text": "Bob", "answer_start": 8}]}]}]}]}),
        ("Ann met Bob Ray.\n\nQ: Who met Bob?\nA: Ann\n", "Ann met Bob Ray.\n\nQ: Whom?\nA: Bob Ray\n"), "",
        # right; "it is bob": 1 of 3 words, 1 of 1 of the second answer
        ("The ann", "it is bob"), {"token_f1": (1 + 1 / 2) / 2, "exact_match": 1 / 2},
    ),
    Miniature(
        "drop", "drop_dataset_dev.json",
        json.dumps({"nfl_1": {"passage": "Ann ran 3 yards, Bob 4.", "qa_pairs": [
            {"question": "How far did Ann run?", "answer": {"number": "3", "date": {}, "spans": []},
             "validated_answers": [{"number": "", "date": {}, "spans": ["3 yards"]}]},
            {"question": "Who ran?", "answer": {"number": "", "date": {}, "spans": ["Ann", "Bob"]}},
            {"question": "When?", "answer": {"number": "", "date": {"day": "2", "month": "May", "year": ""}, "spans": []}},
        ]}}),
        tuple(f"Ann ran 3 yards, Bob 4.\n\nQ: {question}\nA: {answer}\n" for question, answer in
              (("How far did Ann run?", "3"), ("Who ran?", "Ann; Bob"), ("When?", "2 May"))), "",
        # 3.0 is 3; one span of two; 2 missed. token_f1: "30" and "3" share nothing; 2*1/(1+2); 2*1/(1+2)
        ("3.0", "Bob", "May"),
        {"token_f1": (0 + 2 / 3 + 2 / 3) / 3, "drop_f1": (1 + 0.5 + 0) / 3, "drop_em": 1 / 3},
    ),
]  # fmt: skip

MINIATURES = [*SENTENCES, *PAIRS, *PASSAGES, *CHOICES, *GENERATED]

# Rows as the Hub has them (parquet), where they are laid out otherwise; what the model reads of them.
HUB_ROWS = [
    ("sst5", {"text": "dull", "label": 0, "label_text": "very negative"}, "dull It was terrible"),
    ("subj", {"text": "i laughed", "label": 1, "label_text": "subjective"}, "i laughed This is subjective"),
    (
        "trec", {"text": "How many ?", "label": 1, "label_original": "NUM:count", "label_coarse_original": "NUM"},
        "How many ?\nThe answer is of the kind Number",
    ),
    ("agnews", {"text": "A cup", "label": 1}, "A cup\nThis is news about Sports"),
    ("agnews", {"text": "A chip", "label": "Sci/Tech"}, "A chip\nThis is news about Tech"),
    (
        "cb", {"premise": "So.", "hypothesis": "it is", "label": 1, "idx": 0},
        'So.\nGoing by this, is it true that "it is"? Yes, No or Maybe?\nNo',
    ),
    ("boolq", {"question": "is it", "answer": False, "passage": "It is not."}, "It is not.\nIs it?\nNo"),
    (
        "wsc", {"text": "Bob saw Al.", "span1_text": "Bob", "span2_text": "Him", "label": 0},
        'Bob saw Al.\nIn this text, does "him" mean Bob? Yes or No?\nNo',
    ),
    (
        "multirc",
        {"paragraph": "Ann woke.", "question": "Who?", "answer": "Ann", "label": 1,
         "idx": {"paragraph": 3, "question": 1, "answer": 0}},
        'Ann woke.\nWho?\nIs "Ann" a right answer? Yes or No?\nYes',
    ),
    (
        "record",
        {"passage": "Ann met Bob.\n@highlight\nHe waved", "query": "So @placeholder left", "entities": ["Ann", "Bob"],
         "answers": ["Bob"]},
        "Ann met Bob.\n- He waved\n\nSo Bob left",
    ),
    (
        "squad", {"context": "It is 5.", "question": "How many?", "answers": {"text": ["5", "5"], "answer_start": [6, 6]}},
        "It is 5.\n\nQ: How many?\nA: 5\n",
    ),
    (
        "drop", {"passage": "It is 5.", "question": "How many?", "answers_spans": {"spans": ["5", "5"], "types": ["number"]}},
        "It is 5.\n\nQ: How many?\nA: 5\n",
    ),
]  # fmt: skip
