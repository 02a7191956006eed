"""The settings of the tuning schemes. Imports neither torch nor PEFT, so that they are checked first."""

from dataclasses import dataclass
from typing import Literal

from zoft.choices import ReadBy, check_read
from zoft.errors import UsageError

ADAPTERS = ("lora", "prefix", "prompt")  # beside a base that is only read
ON_QUANTISED = (*ADAPTERS, "scales")
READ_BY: ReadBy = {  # settings that only some schemes read
    "lora_r": ("tuning", ("lora",)),
    "lora_alpha": ("tuning", ("lora",)),
    "lora_target_modules": ("tuning", ("lora",)),
    "virtual_tokens": ("tuning", ("prefix", "prompt")),
    "virtual_init": ("tuning", ("prefix", "prompt")),
    "last_k": ("tuning", ("last_k",)),
}


@dataclass(frozen=True)
class TuningSettings:
    """What is trained, and the shape of what is added."""

    tuning: Literal["full", "lora", "prefix", "prompt", "head", "last_k", "bias", "scales"] = "full"  # what is trained
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"  # of the base's linear layers (bitsandbytes)
    lora_r: int = 8  # rank of the LoRA matrices
    lora_alpha: int = 16  # LoRA adds lora_alpha / lora_r times their product
    # what LoRA is added to: names, a regular expression or all-linear; None: PEFT's choice
    lora_target_modules: list[str] | str | None = None
    # length of a prefix or prompt; None: 5 for a prefix (MeZO), 10 for a prompt (ZO-Bench)
    virtual_tokens: int | None = None
    # how virtual tokens begin: as activations (prefix) or embeddings (prompt) of real ones, or at random
    virtual_init: Literal["tokens", "random"] = "tokens"
    last_k: int = 1  # blocks that tuning=last_k trains, counted from the output
    store_features: bool = False  # tuning=head of a classifier: all before the head runs once for each training example

    def __post_init__(self) -> None:
        for name in ("lora_r", "lora_alpha", "virtual_tokens", "last_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, but {value} was given")
        check_read(self, READ_BY)
        if self.store_features and self.tuning != "head":
            raise UsageError(
                f"store_features=true: with tuning={self.tuning} what lies before the head changes in every step; "
                "use tuning=head, or store_features=false"
            )
        if self.quantization != "none" and self.tuning not in ON_QUANTISED:
            raise UsageError(
                f"quantization={self.quantization}: the weights of a quantised base cannot take a small step, so "
                f"tuning={self.tuning} cannot train them; use tuning={', '.join(ON_QUANTISED)}, or quantization=none"
            )
