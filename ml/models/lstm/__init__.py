"""The word-level LSTM language model: its network, the folder it is kept in, and its place behind `LanguageModel`."""
