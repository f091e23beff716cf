"""Weights: find them (`sources`), open them (`checkpoint`), read them tensor by tensor.

`sources` is for any process; whatever touches tensors imports torch, so this package re-exports nothing.
"""
