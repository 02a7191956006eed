"""What was published: settings and results, by model, task and tuning scheme. None: no number was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TASKS = ("sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "record", "squad", "drop")
FEW_SHOT = ("sst2", "sst5", "snli", "mnli", "rte", "trec")
LONG = frozenset(("boolq", "multirc", "record", "squad", "drop"))  # passages; the others are sentences or pairs of them
F1 = frozenset(("squad", "drop"))


@dataclass(frozen=True)
class Results:
    """One row of a published table: percent, in the order of `tasks`."""

    model: str
    tuning: str
    tasks: tuple[str, ...]
    values: tuple[float | None, ...]
    source: str
    suffix: str = ""  # of the recipe's name
    remark: str = ""
    changes: dict[str, Any] = field(default_factory=dict)  # settings of this row beside those of its family

    def __post_init__(self) -> None:
        assert len(self.tasks) == len(self.values), (self.model, self.tuning)


TABLE_1 = "Malladi et al. 2023 (MeZO), Table 1; settings from its Table 16"
TABLE_20 = "Malladi et al. 2023 (MeZO), Table 20; settings from its Table 16"
TABLE_18 = "Malladi et al. 2023 (MeZO), Table 18, mean of five seeds; settings from its Table 15"
LARGE = ("sst2", "rte", "boolq", "wsc", "wic", "squad")  # of Table 20
NOT_THEIRS = "the settings of that run are not known to be these"
LAST = {"load_best_model_at_end": False}  # published for 30B and 66B: the last checkpoint counts

ROWS = (
    Results("opt-13b", "full", TASKS, (91.4, 66.1, 67.9, 67.6, 63.5, 61.1, 60.1, 88.0, 81.7, 84.7, 30.9), TABLE_1),
    Results("opt-13b", "lora", TASKS, (89.6, 67.9, 66.1, 73.8, 64.4, 59.7, 61.5, 84.0, 81.2, 83.8, 31.4), TABLE_1),
    Results("opt-13b", "prefix", TASKS, (90.7, 70.8, 69.6, 73.1, 60.6, 59.9, 63.7, 87.0, 81.4, 84.2, 28.9), TABLE_1),
    Results("opt-30b", "full", LARGE, (90.6, 66.4, 67.2, 63.5, 56.3, 85.2), TABLE_20, changes=LAST),
    Results("opt-30b", "prefix", LARGE, (87.5, 72.6, 73.5, 55.8, 59.1, 83.9), TABLE_20, changes=LAST),
    Results(
        "opt-66b", "full", LARGE, (91.2, 65.7, 72.7, 63.5, 58.9, None), TABLE_20, changes=LAST,
        remark="the paper reports its SQuAD run as failed",
    ),
    Results("opt-66b", "prefix", LARGE, (93.6, 66.4, 73.7, 57.7, 58.6, 85.0), TABLE_20, changes=LAST),
    Results("roberta-large", "full", FEW_SHOT, (90.5, 45.5, 68.5, 58.7, 64.0, 76.9), TABLE_18, "-k16"),
    Results("roberta-large", "full", FEW_SHOT, (93.3, 53.2, 83.0, 78.3, 78.6, 94.3), TABLE_18, "-k512"),
    Results("roberta-large", "lora", FEW_SHOT, (91.4, 43.0, 69.7, 64.0, 64.9, 73.1), TABLE_18, "-k16"),
    Results("roberta-large", "lora", FEW_SHOT, (93.4, 52.4, 84.0, 77.9, 77.6, 95.0), TABLE_18, "-k512"),
    Results("roberta-large", "prefix", FEW_SHOT, (90.8, 45.8, 71.6, 63.4, 65.4, 80.3), TABLE_18, "-k16"),
    Results("roberta-large", "prefix", FEW_SHOT, (93.3, 53.6, 84.8, 79.8, 77.2, 94.4), TABLE_18, "-k512"),
    Results(
        "llama-2-7b", "full", TASKS, (88.7, 62.1, None, 80.1, 62.1, 60.8, *[None] * 5),
        "MeZO-GV, its re-run of MeZO on Llama-2-7B", remark=NOT_THEIRS,
    ),
    Results(
        "llama-2-7b", "lora", TASKS, (93.7, 63.3, None, 79.5, 62.5, 57.5, *[None] * 5),
        "MeZO-GV, its re-run of MeZO on Llama-2-7B", remark=NOT_THEIRS,
    ),
    Results(
        "llama-3-8b", "full", TASKS, (92.2, 74.4, 69.6, 76.7, None, 57.8, 77.6, 88.0, None, 86.7, 57.1),
        "GRZO, its re-run of MeZO on Llama-3-8B", remark=NOT_THEIRS,
    ),
    Results("llama-3-8b", "lora", TASKS, (None,) * 11, ""),
    Results(
        "mistral-7b", "full", (*TASKS, "trec"), (90.9, 64.3, None, None, 63.5, 56.6, None, 88.0, None, None, None, 88.6),
        "BSZO, its re-run of MeZO on Mistral-7B in float16", changes={"zo_eps": 1e-4},
        remark="eps and batch size are that run's; its learning rate and early stopping are not known",
    ),
    Results("mistral-7b", "lora", TASKS, (None,) * 11, ""),
    *(Results(f"qwen3-{size}", tuning, TASKS, (None,) * 11, "") for size in ("4b", "8b") for tuning in ("full", "lora")),
)  # fmt: skip

# Learning rate and eps: MeZO, Tables 15 and 16 (one of each published grid; the authors' defaults for OPT) and, for WSC,
# the authors' remark that it wants 1e-7.
OPT = {
    "full": {"learning_rate": 1e-6, "zo_eps": 1e-3},
    "lora": {"learning_rate": 1e-4, "zo_eps": 1e-2, "lora_r": 8, "lora_alpha": 16},
    "prefix": {"learning_rate": 1e-2, "zo_eps": 1e-1, "virtual_tokens": 5},
}
OPT_GRIDS = {
    "full": "1e-6, 1e-7", "lora": "1e-4, 5e-5", "prefix": "1e-2, 1e-3",
    "full f1": "1e-6, 5e-7, 1e-7", "lora f1": "1e-4, 5e-5, 1e-5", "prefix f1": "5e-2, 1e-2, 5e-3",
}  # fmt: skip
ROBERTA = {
    "full": {"learning_rate": 1e-6, "zo_eps": 1e-3},
    "lora": {"learning_rate": 5e-5, "zo_eps": 1e-3, "weight_decay": 0.1, "lora_r": 8, "lora_alpha": 16},
    "prefix": {"learning_rate": 5e-3, "zo_eps": 1e-1, "virtual_tokens": 5},
}
ROBERTA_GRIDS = {"full": "1e-7, 1e-6, 1e-5", "lora": "1e-5, 5e-5, 1e-4", "prefix": "1e-2, 5e-3, 1e-3"}
ROBERTA_RUN = {
    "num_train": None, "num_dev": None, "seed": 42, "split_seed": 42, "per_device_train_batch_size": 64,
    "max_steps": 100000, "eval_steps": 10000, "save_steps": 10000,
}  # fmt: skip
