"""Did you mean …: the nearest known name, and the names people bring along from other programs."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

# What the same thing is called in MeZO, ZO-Bench, TRL, older Transformers or plain speech. Only used to word an error.
KNOWN_ELSEWHERE: Mapping[str, str] = {
    "batch_size": "per_device_train_batch_size",
    "ckpt": "model",
    "epochs": "num_train_epochs",
    "eps": "zo_eps",
    "epsilon": "zo_eps",
    "eval_batch_size": "per_device_eval_batch_size",
    "evaluation_strategy": "eval_strategy",
    "load_float16": "dtype",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "model_name": "model",
    "model_name_or_path": "model",
    "num_dev_examples": "num_dev",
    "num_eval": "num_dev",
    "optimizer": "method",
    "processing_class": "tokenizer",
    "q": "zo_directions",
    "steps": "max_steps",
    "task_name": "task",
    "tokenizer_name": "tokenizer",
    "torch_dtype": "dtype",
    "trainer": "method",
    "verbalizer": "label_words",
    "wd": "weight_decay",
    "zo_lr": "learning_rate",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause to append to an error, or an empty string when nothing is near.

    >>> did_you_mean("learnin_rate", ["learning_rate", "max_steps"])
    '; did you mean learning_rate?'
    >>> did_you_mean("lr", ["learning_rate"])
    '; did you mean learning_rate?'
    >>> did_you_mean("qqqq", ["learning_rate"])
    ''
    """
    names = list(known)
    lowered = word.lower().lstrip("-").replace("-", "_")
    alias = KNOWN_ELSEWHERE.get(lowered)
    if alias in names:
        return f"; did you mean {alias}?"
    plain = {name.lower().replace("-", "_"): name for name in names}
    near = get_close_matches(lowered, plain, n=2, cutoff=0.7)
    near = near or [name for name in plain if name.startswith(lowered + "_")]
    return f"; did you mean {' or '.join(plain[name] for name in near)}?" if near else ""
