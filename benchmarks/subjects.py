"""What is measured: which model, and a prompt that makes sense to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ml.model_folders import PRETRAINED
from ml.models.lstm.files import save_lstm
from ml.models.lstm.network import LstmConfig, WordLSTM
from ml.models.words import END, UNKNOWN, wikitext_tokenizer

GPT2_SMALL = "gpt2-small"
RANDOM_LSTM = "random-lstm"
ONE_LAYER = "one-layer"

TEXT = (
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country until"
    " the second world war . After the war , the river changed its course , and the old road was closed to all "
    "traffic . In the spring of 1954 a new company bought the land on both sides of the river and began to build "
    "houses for the workers of the steel works . The houses were small , but each had a garden , and by the end "
    "of the decade more than two thousand people lived there . The bridge was opened again in 1961 , when the "
    "mayor and the minister of transport walked over it in the rain , and a band played on the northern side . "
)


@contextmanager
def folder_of(model: str) -> Iterator[Path]:
    """The folder of a shipped model's name, of one that is made for the time being, or `model` itself."""
    shipped = PRETRAINED / model
    makers = {GPT2_SMALL: gpt2_small, RANDOM_LSTM: random_lstm, ONE_LAYER: one_layer}
    if model not in makers:
        yield shipped if shipped.is_dir() else Path(model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield makers[model](Path(temporary) / model)


def gpt2_small(folder: Path) -> Path:
    """GPT-2's smallest configuration, 124M parameters, with random weights; the shipped transformer's tokenizer."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PRETRAINED / "transformer").save_pretrained(folder)
    return folder


def one_layer(folder: Path) -> Path:
    """A GPT-2 of one layer of 16 numbers with random weights, which takes next to no time; the same tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(PRETRAINED / "transformer")
    shape = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_lstm(folder: Path) -> Path:
    """A small word-level LSTM with random weights, of the words of `TEXT`."""
    words = [UNKNOWN, END, *sorted(set(TEXT.split()))]
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(len(words), embedding_size=64, hidden_size=64, context_length=256))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.5, 0.5)
    save_lstm(module, wikitext_tokenizer(words), folder)
    return folder
