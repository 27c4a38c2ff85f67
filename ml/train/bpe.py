"""A byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2) trained on the text it will read."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
START = "<|endoftext|>"


def train_tokenizer(lines: list[str], vocabulary_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Learn `vocabulary_size` tokens, 256 bytes and two special ones included.

    `<unk>` is a word of the data, so the model learns what an unknown word looks like and where one stands: exactly
    what is needed of the token that replaces a removed word. It takes the space before it along, as every other word's
    token does. `<|endoftext|>` starts every prompt and every training window.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(START, special=True), AddedToken(UNKNOWN, special=True, lstrip=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=START,
        unk_token=UNKNOWN,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
