"""The mean layer: what the head then reads is the mean over the real tokens, and the saved model is an ordinary one."""

import pytest
import torch
import transformers as hf

from zoft.errors import UsageError
from zoft.pooling import POOLER, SCALE, add_mean_layer

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_the_first_token_becomes_the_normalised_mean(kind, tmp_path):
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**SIZES, max_position_embeddings=64, pad_token_id=1, num_labels=3)
    model = getattr(hf, f"{kind}ForSequenceClassification")(config).double().eval()
    with torch.no_grad():
        states = model.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state
        mean = (states * MASK.unsqueeze(-1)).sum(1) / MASK.sum(1, keepdim=True)
        inside = SCALE * mean + states[:, 0]
        expected = torch.nn.functional.layer_norm(inside, (16,), eps=config.layer_norm_eps)
        add_mean_layer(model)
        found = model.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state[:, 0]
        assert torch.allclose(found, expected, atol=1e-9)
        alone = torch.nn.functional.layer_norm(mean, (16,))
        assert torch.nn.functional.cosine_similarity(found, alone).min() > 1 - (2 / SCALE) ** 2 * 16
        logits = model(input_ids=IDS, attention_mask=MASK).logits
        if kind == "Bert":
            assert torch.allclose(logits, model.classifier(torch.tanh(POOLER * expected)), atol=1e-9)
        model.save_pretrained(tmp_path)
        again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
        assert torch.equal(again(input_ids=IDS, attention_mask=MASK).logits, logits)


def test_other_models_are_refused():
    config = hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=1)
    with pytest.raises(UsageError, match="GPT2ForSequenceClassification has none"):
        add_mean_layer(hf.GPT2ForSequenceClassification(config))
