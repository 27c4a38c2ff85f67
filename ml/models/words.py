"""Word-level tokenizers: a vocabulary as a `tokenizers` file, so that serving needs nothing of what trained it.

Every line of text ends in `<eos>`, and a prompt starts after one: as in training, where the lines follow one another.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
END = "<eos>"

_LINE_END = (r"\n", f" {END} ")

# What WikiText's own preparation did to joints inside words and numbers. None of it is left in WikiText's lines.
_JOINTS = (
    (r"(?<=\w)-(?=\w)", " @-@ "),
    (r"(?<=\d),(?=\d{3}(?!\w))", " @,@ "),
    (r"(?<=\d)\.(?=\d)", " @.@ "),
    ("(?<=\\d)\u2013(?=\\d)", " \u2013 "),
)

_PUNCTUATION = (
    r"\.\.\.|[,;:!?%…\"()\[\]{}/]"  # wherever it stands
    r"|\A[$£€₹#']"  # before a word
    r"|(?<=\w)'(?:s|t|re|m|ve|ll|d)(?!\w)|'\z"  # York's, the players'
    r"|\.(?=['\")\]]*\z)"  # the end of a sentence
)

# torchtext's rules of `basic_english`, in its order; it lower-cases first.
_BASIC_ENGLISH = (
    (r"'", " '  "),
    (r'"', ""),
    (r"\.", " . "),
    (r"<br />", " "),
    (r",", " , "),
    (r"\(", " ( "),
    (r"\)", " ) "),
    (r"!", " ! "),
    (r"\?", " ? "),
    (r"[;:]", " "),
)


def wikitext_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """WikiText's words, from its own spaced-out lines and from text as people write it. `words[i]` has id i.

    A word of the vocabulary that stands between spaces is always kept whole (``U.S.``, ``@-@``), so WikiText's lines
    come apart at their spaces and nowhere else; what else people write is cut as WikiText was: ``York's best,`` becomes
    ``York 's best ,``.

    Args:
        words: distinct, with `<unk>` and `<eos>` among them.
    """
    tokenizer = _word_level(words)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(pattern), content) for pattern, content in (*_JOINTS, _LINE_END)]
    )
    cut = pre_tokenizers.Split(Regex(_PUNCTUATION), behavior="isolated")
    kept = [word for word in words if len(cut.pre_tokenize_str(word)) > 1 or word[:1] == "<"]
    # Longest first: an alternation takes the first that fits.
    whole = "|".join(_escaped(word) for word in sorted(kept, key=len, reverse=True))
    pattern = rf"(?<!\w)(?:{whole})(?=['\")\]]*[,;:!?]*\z|'s\z)|{_PUNCTUATION}" if kept else _PUNCTUATION
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    )
    return _wrapped(tokenizer)


def basic_english_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """The words that torchtext's `get_tokenizer("basic_english")` finds. `words[i]` has id i.

    Args:
        words: distinct and lower-case, with `<unk>` and `<eos>` among them.
    """
    tokenizer = _word_level(words)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(pattern), content) for pattern, content in (*_BASIC_ENGLISH, _LINE_END)),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer)


def _escaped(word: str) -> str:
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):x}}}" for letter in word)


def _word_level(words: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, tokenizer.token_to_id(END))]
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
