"""MNLI: does a sentence follow from a premise of many genres, contradict it, or neither? Matched and mismatched genres."""

from dataclasses import replace

from zoft.tasks.base import HubSource
from zoft.tasks.snli import SNLI

MNLI = replace(SNLI, name="mnli", hub=HubSource("nyu-mll/glue", "mnli", validation="validation_matched"))
MNLI_MISMATCHED = replace(
    SNLI, name="mnli_mismatched", hub=HubSource("nyu-mll/glue", "mnli", validation="validation_mismatched")
)
