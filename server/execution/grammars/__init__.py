"""Structured output: which tokens may come next, if the text is to be what a grammar says.

| | |
|---|---|
| `compiler.py` | grammars in, compiled ones out, in threads of its own; those seen lately are kept |
| `trial.py` | each new grammar is tried in a process that may die of it |
| `dialect.py` | our four kinds of grammar as llguidance writes them, and its complaints as sentences |
| `tokens.py` | what each token of a model spells |
| `matcher.py` | follows one text: allowed tokens before, the chosen one after |

llguidance (https://github.com/guidance-ai/llguidance) parses. It is an optional extra, imported only here.
"""
