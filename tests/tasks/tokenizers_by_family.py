"""Small tokenizers of each family, trained on the spot from a few sentences."""

import json
import string

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "a charming and often affecting journey . It was great",
    "unflinchingly bleak and desperate . It was terrible",
    "the film is great , the acting terrible , the plot wonderfully charming",
    "From this, does it follow that the hypothesis is true? Yes or No?\nYes\nNo\n",
    "Question: was it good? Answer: Yes, it was. No, it was not.",
] * 4
ALPHABET = [character for character in string.printable if not character.isspace()]


def byte_level(bos=True):
    """GPT-2's family; with `bos` as OPT has it: one token for both ends, put in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(CORPUS, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    else:
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="</s>")


def sentencepiece_bpe():
    """Llama's family: spaces become ▁, one is put in front; it appends an end of sequence here, as some do."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()  # while it learns, no piece reaches over a space
    specials = ["<unk>", "<s>", "</s>"]
    core.train_from_iterator(
        "\n".join(CORPUS).splitlines(),
        trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=ALPHABET),
    )
    saved = json.loads(core.to_str())
    vocabulary = saved["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    saved["model"] |= {"byte_fallback": True, "fuse_unk": True}
    core = Tokenizer.from_str(json.dumps(saved | {"pre_tokenizer": None}))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def sentencepiece_unigram():
    """T5's and XLM-R's family."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    core.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>", initial_alphabet=ALPHABET),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )  # fmt: skip


def wordpiece():
    """BERT's family: lower case, spaces dropped, [CLS] text [SEP]."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=ALPHABET)
    )
    pieces = core.get_vocab()  # as BERT's, which can spell any word: every character also goes on a word
    for character in ALPHABET:
        pieces.setdefault(f"##{character}", len(pieces))
    core.model = models.WordPiece(pieces, unk_token="[UNK]")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def roberta():
    """RoBERTa's: byte-level BPE with a mask that swallows the space before it."""
    tokenizer = byte_level(bos=True)
    core = tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="</s> $A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="</s>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )  # fmt: skip


CAUSAL = {
    "byte-level": lambda: byte_level(bos=False),
    "byte-level with a start": byte_level,
    "SentencePiece BPE": sentencepiece_bpe,
    "SentencePiece unigram": sentencepiece_unigram,
    "WordPiece": wordpiece,
}
MASKED = {"RoBERTa": roberta, "BERT": wordpiece, "XLM-R": sentencepiece_unigram}
