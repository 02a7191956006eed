"""Models and tokenizers through Transformers: loaded and checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from zoft.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Architecture = Literal["causal", "masked", "classifier"]
UNKNOWN_LENGTH = 2048  # tokens, when neither model nor tokenizer says how many it reads (MeZO's limit)
logger = logging.getLogger(__name__)


def architecture_of(name: str) -> Architecture:
    """What the model in a folder or on the Hub was made to do, by its configuration alone.

    An encoder without a language-modelling head (a sentence encoder) is a `classifier`: it gets a new head.

    Raises:
        UsageError: no configuration, or a kind of model that is none of these.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    config = _config(_base_of(name))
    kinds = " ".join(config.architectures or ())
    if "ForMaskedLM" in kinds:
        return "masked"
    if "ForSequenceClassification" in kinds:
        return "classifier"
    if any(word in kinds for word in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        if getattr(config, "is_encoder_decoder", False):
            raise UsageError(f"model {name}: {kinds} has an encoder and a decoder; give a decoder alone or an encoder")
        return "causal"
    encoder = getattr(config, "is_decoder", None) is False  # BERT and its kind carry this setting
    if config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES and (encoder or "Encoder" in kinds):
        return "classifier"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise UsageError(f"model {name}: {kinds or config.model_type} is no causal, masked or classifying language model")


def has_head(name: str) -> bool:
    """Whether the model in a folder or on the Hub comes with a classification head."""
    return "ForSequenceClassification" in " ".join(_config(_base_of(name)).architectures or ())


def load_tokenizer(name: str, architecture: Architecture = "causal") -> Any:
    """The tokenizer of a folder or a name on the Hub; it pads with the end of sequence where it has no padding token.

    Raises:
        UsageError: there is none.
    """
    from transformers import AutoTokenizer

    folder = name if _has_tokenizer(name) else _base_of(name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"tokenizer: nothing could be loaded from {name}: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left" if architecture == "causal" else "right"
    return tokenizer


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    architecture: Architecture | None = None,
    labels: int = 2,
    tokenizer: Any = None,
    quantization: str = "none",
    sharding: Mapping[str, int] | None = None,
    base: str | None = None,
) -> PreTrainedModel | Any:
    """The model of a folder (also one that holds a LoRA adapter) or a name on the Hub, on the CPU, in eval mode.

    Args:
        dtype: of the weights: float32, bfloat16, float16; auto: as they were saved.
        architecture: None: by its configuration.
        labels: outputs of a classification head; the head is new where the folder holds none.
        tokenizer: to give the model its padding token, and to check that the two belong together.
        quantization: nf4, fp4 or int8: the linear layers' weights are stored so by bitsandbytes; `dtype` holds for the others.
        sharding: fsdp_size or tp_size: among how many processes of torch.distributed the weights are cut.
        base: of an adapter in the folder `name`; None: the one that the adapter names.

    Raises:
        UsageError: nothing to load; a head of another size; a tokenizer with more tokens than the model knows; weights that
            cannot be quantised here; another number of processes than the weights are to be cut among.
    """
    import torch
    import transformers

    architecture = architecture or architecture_of(name)
    base = base or _base_of(name)
    arguments: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantization != "none":
        arguments["quantization_config"] = _quantized(quantization, _config(base).dtype if dtype == "auto" else dtype)
    if sharding:
        arguments["distributed_config"] = _sharded(sharding)
    if architecture == "classifier":
        config = _config(base)
        if has_head(base) and config.num_labels != labels:
            raise UsageError(
                f"model {name}: its head tells {config.num_labels} labels apart, but the task has {labels}"
            )
        arguments["num_labels"] = labels
    kind: Any = {
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[architecture]
    try:
        model: Any = kind.from_pretrained(base, **arguments)
    except (OSError, KeyError) as error:
        raise UsageError(f"model: nothing could be loaded from {name}: {_first_line(error)}") from error
    except (ImportError, ValueError) as error:
        if quantization == "none":
            raise
        raise UsageError(f"quantization={quantization}: {_first_line(error)}; use quantization=none") from error
    _keep_packing(model)
    _agree(model, tokenizer, name)
    if (Path(name).expanduser() / "adapter_config.json").is_file():
        model = _adapted(model, name)
    return model.eval()


def _sharded(sharding: Mapping[str, int]) -> Any:
    """Raises UsageError unless there are as many processes. They meet here, as Trainer's would, where they have not yet."""
    from accelerate import PartialState
    from transformers.distributed.configuration_utils import DistributedConfig

    ((name, size),) = sharding.items()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes != size:
        raise UsageError(
            f"{name}={size} cuts the weights among {size} processes, but {processes} {'was' if processes == 1 else 'were'} "
            f"started: accelerate launch --num_processes {size} …"
        )
    # as accelerate's launcher says it
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    PartialState(cpu=on_cpu)  # before Transformers makes a group of its own, of which Trainer would know nothing
    cut: Any = {name: size}
    return DistributedConfig(**cut)


def _adapted(model: Any, folder: str) -> Any:
    """The PEFT model with the adapter in `folder`, ready to be trained."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(folder)
    if not config.is_prompt_learning:
        return PeftModel.from_pretrained(model, folder, is_trainable=True)
    peft: Any = PeftModel.from_pretrained(model, folder)  # virtual tokens: PEFT refuses to load them for training
    for adapter in peft.peft_config.values():
        adapter.inference_mode = False
    for name, weight in peft.named_parameters():
        weight.requires_grad_(name.startswith("prompt_encoder."))
    return peft


def context_length(model: nn.Module, tokenizer: Any = None) -> int:
    """The longest text, in tokens, that the model can read."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
    said = [getattr(config, name, None) for name in names]
    limits = [n for n in said if isinstance(n, int) and n > 0]
    # RoBERTa counts positions from the one behind padding, so a table of 514 serves 512 tokens.
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    told = getattr(tokenizer, "model_max_length", None)
    if told is not None and told < 1_000_000:  # tokenizers without a limit say 10^30
        limits.append(int(told))
    return min(limits, default=UNKNOWN_LENGTH) - virtual_tokens(model)


def virtual_tokens(model: nn.Module) -> int:
    """Positions that an adapter of virtual tokens (prefix, prompt) takes before the text."""
    configs: Any = getattr(model, "peft_config", {})
    return sum(getattr(config, "num_virtual_tokens", None) or 0 for config in configs.values())


def _quantized(kind: str, dtype: Any) -> Any:
    """Transformers' words for a base that bitsandbytes stores in 4 bits (normal or plain float) or 8 (LLM.int8).

    Args:
        dtype: that a model computes in behind 4-bit weights; without it that would be float32 for every model.
    """
    from transformers import BitsAndBytesConfig

    if kind in ("nf4", "fp4"):
        computed = None if dtype is None else str(dtype).removeprefix("torch.")
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=computed)
    return BitsAndBytesConfig(load_in_8bit=True)


def _keep_packing(model: nn.Module) -> None:
    """4-bit weights stay as they were stored.

    On CPUs with AVX512-BF16 bitsandbytes packs them anew, with other scales, when a layer first runs outside training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _agree(model: Any, tokenizer: Any, name: str) -> None:
    """Padding token as the tokenizer's; UsageError when the tokenizer has tokens the model has no embedding for."""
    if tokenizer is None:
        return
    known = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= known:
        raise UsageError(
            f"model {name} knows {known} tokens, but its tokenizer has one numbered {highest}; they do not match"
        )
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id


def _config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"model: {name} has no configuration that could be read: {_first_line(error)}") from error
    _check_format(config, name)
    return config


def _check_format(config: Any, name: str) -> None:
    """UsageError for weights that are stored in a quantised form of which zoft knows nothing."""
    stored = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if stored is None:
        return
    told = stored if isinstance(stored, dict) else stored.to_dict()
    default = "bitsandbytes" if told.get("load_in_4bit") or told.get("load_in_8bit") else "an unnamed format"
    method = getattr(told.get("quant_method"), "value", told.get("quant_method")) or default
    if method != "bitsandbytes":
        raise UsageError(
            f"model {name}: its weights are stored as {method}, and zoft trains on bitsandbytes' formats alone; give the "
            "model that was not quantised, with quantization=nf4, fp4 or int8, or a folder that bitsandbytes quantised"
        )


def _base_of(name: str) -> str:
    """The model under the adapter, if the folder holds one; else `name`. UsageError when the folder does not exist."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise UsageError(f"model: the folder {name} does not exist; relative paths start at {Path.cwd()}")
    if not (folder / "adapter_config.json").is_file():
        return str(folder) if folder.is_dir() else name
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not base:
        raise UsageError(f"model: the adapter in {name} does not say which model it belongs to")
    return base


def _has_tokenizer(name: str) -> bool:
    folder = Path(name).expanduser()
    return any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
