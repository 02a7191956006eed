"""Tasks by name."""

from __future__ import annotations

from collections.abc import Mapping

from zoft.choices import nearest
from zoft.errors import UsageError
from zoft.tasks.agnews import AGNEWS
from zoft.tasks.base import Task
from zoft.tasks.boolq import BOOLQ
from zoft.tasks.cb import CB
from zoft.tasks.chat import CHAT
from zoft.tasks.cola import COLA
from zoft.tasks.copa import COPA
from zoft.tasks.cr import CR
from zoft.tasks.custom import EXAMPLE, custom
from zoft.tasks.drop import DROP
from zoft.tasks.mnli import MNLI, MNLI_MISMATCHED
from zoft.tasks.mpqa import MPQA
from zoft.tasks.mr import MR
from zoft.tasks.mrpc import MRPC
from zoft.tasks.multirc import MULTIRC
from zoft.tasks.plain_text import TEXT
from zoft.tasks.qnli import QNLI
from zoft.tasks.qqp import QQP
from zoft.tasks.record import RECORD
from zoft.tasks.rte import RTE
from zoft.tasks.snli import SNLI
from zoft.tasks.squad import SQUAD
from zoft.tasks.sst2 import SST2
from zoft.tasks.sst5 import SST5
from zoft.tasks.subj import SUBJ
from zoft.tasks.trec import TREC
from zoft.tasks.wic import WIC
from zoft.tasks.winogrande import WINOGRANDE
from zoft.tasks.wsc import WSC

GENERATIVE = (SQUAD, DROP)
CHOICES = (COPA, RECORD, WINOGRANDE)
PASSAGES = (CB, BOOLQ, WSC, WIC, MULTIRC)  # with RTE, the classification tasks of SuperGLUE
SENTENCES = (SST2, SST5, MR, CR, MPQA, SUBJ, TREC, COLA, AGNEWS)
PAIRS = (RTE, SNLI, MNLI, MNLI_MISMATCHED, QNLI, MRPC, QQP)
OWN_DATA = (TEXT, CHAT)  # beside `custom`: formats rather than data sets
EVERY = (*SENTENCES, *PAIRS, *PASSAGES, *CHOICES, *GENERATIVE, *OWN_DATA)
TASKS: dict[str, Task] = {task.name: task for task in EVERY}


def resolve(
    name: str | None,
    template: str | None = None,
    label_words: Mapping[str, str] | None = None,
    label_column: str | None = None,
    target_column: str | None = None,
) -> Task:
    """The task `name` with the user's changes; None or `custom`: one made of the user's settings alone.

    Raises:
        UsageError: no such task, or none at all; settings that it does not have or that are wrong.
    """
    if name is None and template is None and label_words is None and target_column is None:
        raise UsageError(
            f"no task was given: name one, as task=sst2 (there are: {', '.join(TASKS)}), or describe your own, as in {EXAMPLE}"
        )
    if name is None or name == "custom":
        return custom(template, label_words, label_column, target_column)
    if name not in TASKS:
        hint = nearest(name.replace("-", "").replace("_", ""), TASKS)
        raise UsageError(f"task {name!r} does not exist{hint}; there are: {', '.join(TASKS)}, custom")
    return TASKS[name].with_settings(template, label_words, label_column, target_column)
