"""Strings and tokens: tokenizers, chat templates, text that grows without being taken back, stop strings."""
