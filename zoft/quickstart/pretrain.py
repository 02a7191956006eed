"""Makes the small language model: a tokenizer over the world's words, and an OPT that reads the corpus without labels.

Everything runs on one CPU thread with generators of its own, so that the same machine and versions give the same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from zoft.quickstart.world import LABEL_WORDS, OPINIONS, Review, vocabulary

if TYPE_CHECKING:
    from transformers import OPTForCausalLM, PreTrainedTokenizerFast

SPECIAL_WORDS = ("<pad>", "<unk>", "</s>")  # ids 0, 1, 2; "</s>" opens and ends a document, as in OPT


@dataclass(frozen=True)
class Pretraining:
    """What the language model is and how it learns; part of the cache's name."""

    seed: int = 0
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    ffn_size: int = 256
    positions: int = 64  # tokens
    init_std: float = 0.08  # wider than usual: with 0.02 half the steps go by before attention starts to form
    steps: int = 700
    batch_size: int = 24  # documents
    learning_rate: float = 5e-3  # peak, after warmup; falls to zero along a cosine
    warmup: int = 50  # steps
    weight_decay: float = 0.1


def make_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word; a text starts with ``</s>``, as OPT's tokenizer does it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = (*SPECIAL_WORDS, *vocabulary)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", words.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="</s>", eos_token="</s>"
    )


def pretrain(
    corpus: Sequence[Review], setting: Pretraining, on_step: Callable[[int], None] = lambda step: None
) -> tuple[OPTForCausalLM, PreTrainedTokenizerFast]:
    """A model that has read the reviews. Afterwards the rows of the two unread label words are set to the mean row.

    A word that never occurs is only ever pushed away by the softmax, and where it ends up is an accident of its
    first value. The mean row is where Transformers, too, starts a word added to a vocabulary; and as both words get
    the same row, the model gives both the same probability whatever it reads: it cannot know which is which before
    it is fine-tuned.
    """
    model, tokenizer = read([review.document for review in corpus], vocabulary(), setting, on_step)
    with _alone(setting.seed):
        _introduce_label_words(model, tokenizer)
    return model, tokenizer


def read(
    texts: Sequence[str],
    vocabulary: Sequence[str],
    setting: Pretraining,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[OPTForCausalLM, PreTrainedTokenizerFast]:
    """A model of these words that has read the texts."""
    with _alone(setting.seed):
        tokenizer = make_tokenizer(vocabulary)
        model = new_model(setting, tokenizer)
        ids, mask = _encode(texts, tokenizer)
        generator = torch.Generator().manual_seed(setting.seed)
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": setting.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=setting.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        model.train()
        for step, rows in zip(range(setting.steps), _epochs(len(ids), setting.batch_size, generator), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = setting.learning_rate * _schedule(step, setting)
            width = int(mask[rows].sum(1).max())
            batch, seen = ids[rows, :width], mask[rows, :width]
            logits = model(input_ids=batch, attention_mask=seen, use_cache=False).logits[:, :-1]
            targets = batch[:, 1:].masked_fill(seen[:, 1:] == 0, -100)
            F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            on_step(step + 1)
        return model.eval(), tokenizer


def like_minded_share(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, reviews: Sequence[Review]) -> float:
    """Share, in [0, 1], of reviews after whose prompt the most probable word is an opinion of their sentiment."""
    predicted = next_words(model, tokenizer, [review.prompt for review in reviews])
    right = sum(word in OPINIONS[review.sentiment] for word, review in zip(predicted, reviews, strict=True))
    return right / len(reviews)


@torch.no_grad()
def next_words(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[str]:
    """The most likely word after each text."""
    ids, mask = _encode(texts, tokenizer, end=False)
    predicted = []
    for start in range(0, len(ids), 256):
        rows, seen = ids[start : start + 256], mask[start : start + 256]
        logits = model(input_ids=rows, attention_mask=seen, use_cache=False).logits
        last = logits[torch.arange(len(rows)), seen.sum(1) - 1]  # [b, vocabulary]
        predicted += last.argmax(-1).tolist()
    return list(tokenizer.convert_ids_to_tokens(predicted))


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, the CPU as device, fp32 as dtype, the CPU generator seeded; all as before afterwards.

    Only the CPU generator is seeded: ``torch.manual_seed`` would also reach the accelerators' generators.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def new_model(setting: Pretraining, tokenizer: PreTrainedTokenizerFast) -> OPTForCausalLM:
    """A model of that size that has read nothing yet."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=setting.hidden_size,
        word_embed_proj_dim=setting.hidden_size,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        ffn_dim=setting.ffn_size,
        max_position_embeddings=setting.positions,
        init_std=setting.init_std,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=SPECIAL_WORDS.index("<pad>"),
        bos_token_id=SPECIAL_WORDS.index("</s>"),
        eos_token_id=SPECIAL_WORDS.index("</s>"),
    )
    return OPTForCausalLM(config)


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, end: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [texts, longest] int64, padded on the right."""
    suffix = " </s>" if end else ""
    encoded = tokenizer([text + suffix for text in texts], padding=True, padding_side="right", return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def _epochs(count: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Batches of row numbers, reshuffled every epoch, for ever; the last short batch of an epoch is left out."""
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)[: max(1, count // batch_size)]


def _schedule(step: int, setting: Pretraining) -> float:
    """Linear warmup, then half a cosine to zero; in (0, 1]."""
    if step < setting.warmup:
        return (step + 1) / setting.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - setting.warmup) / max(1, setting.steps - setting.warmup)))


@torch.no_grad()
def _introduce_label_words(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = model.get_input_embeddings().weight  # [vocabulary, hidden]; tied to the output
    new = [tokenizer.get_vocab()[word] for word in LABEL_WORDS]
    read = [index for index in range(len(rows)) if index not in new]
    rows[new] = rows[read].mean(0)
