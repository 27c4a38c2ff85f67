"""Word-level tokenizers: a vocabulary as a `tokenizers` file, so that serving needs nothing of what trained it.

Every line of text ends in `<eos>`, and a prompt starts after one: as in training, where the lines follow one another.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
END = "<eos>"


def wikitext_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of text whose tokens stand between spaces, as WikiText's do. `words[i]` has id i.

    Args:
        words: distinct, with `<unk>` and `<eos>` among them.
    """
    tokenizer = _word_level(words)
    tokenizer.normalizer = normalizers.Replace(Regex(r"\n"), f" {END} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer)


def _word_level(words: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, end)]
    )
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=END,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
