"""Tiny models with random weights, one of each architecture; examples made of tokens."""

import pytest
import torch
import transformers as hf

from zoft.tasks.encode import Encoded, EncodedDataset, TokenRow

VOCABULARY = 60
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FEW = {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGURATIONS = {
    "opt": lambda: hf.OPTConfig(**SIZES, **FEW, ffn_dim=32, word_embed_proj_dim=16),
    "llama": lambda: hf.LlamaConfig(**SIZES, **FEW, intermediate_size=32, num_key_value_heads=1),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, **FEW, intermediate_size=32, num_key_value_heads=1, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**SIZES, **FEW, intermediate_size=32, num_key_value_heads=1),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, **FEW, intermediate_size=32, num_key_value_heads=1, head_dim=8),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES, **FEW, intermediate_size=32),
    "gpt2": lambda: hf.GPT2Config(**GPT, n_positions=64, n_embd=16, n_layer=2, n_head=2),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        **GPT, max_position_embeddings=64, hidden_size=16, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]], window_size=8,
    ),
    "roberta": lambda: hf.RobertaConfig(**SIZES, **FEW | {"pad_token_id": 1}, intermediate_size=32),
    "bert": lambda: hf.BertConfig(**SIZES, **FEW, intermediate_size=32),
    "distilbert": lambda: hf.DistilBertConfig(**GPT, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
}  # fmt: skip
CAUSAL = [name for name in CONFIGURATIONS if name not in ("roberta", "bert", "distilbert")]
MASKED = ["roberta", "bert", "distilbert"]


def build(name, kind="CausalLM", **changes):
    """A model whose weights are large enough for its outputs to differ from one another."""
    torch.manual_seed(0)
    configuration = CONFIGURATIONS[name]()
    configuration.initializer_range = 0.2
    for key, value in changes.items():
        setattr(configuration, key, value)
    return getattr(hf, f"AutoModelFor{kind}").from_config(configuration).eval()


def sentence(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(5, VOCABULARY, (length,), generator=generator).tolist())


def one_token_answers(lengths=(5, 19, 11, 2), choices=(7, 9, 30)):
    return EncodedDataset(
        tuple(Encoded((TokenRow(sentence(n, n), ()),), gold=n % len(choices), row=n, choices=choices) for n in lengths),
        "causal",
    )


def longer_answers():
    """Answers of one to five tokens; two to four of them."""
    items = []
    for number, (prompt, answers) in enumerate([(6, (1, 3)), (17, (5, 2, 1, 2)), (3, (4, 4, 1))]):
        before = sentence(prompt, number)
        rows = [before + sentence(n, 10 * number + n + k) for k, n in enumerate(answers)]
        items.append(
            Encoded(tuple(TokenRow(ids, tuple(range(prompt, len(ids)))) for ids in rows), gold=number % 2, row=number)
        )
    return EncodedDataset(tuple(items), "causal")


@pytest.fixture(params=CAUSAL)
def causal(request):
    return build(request.param)
