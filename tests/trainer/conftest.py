import pytest
import torch


def make_model(dtype: torch.dtype = torch.float32):
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    return OPTForCausalLM(config).to(dtype)


@pytest.fixture
def tiny_model():
    """Builds the same tiny OPT, dropout 0.1 included, each time it is called."""
    return make_model


@pytest.fixture
def rows() -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 50, (64, 12), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


@pytest.fixture
def arguments(tmp_path) -> dict:
    """Arguments that TrainingArguments and ZOConfig share."""
    return {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
