"""Decides what runs next: sequences, blocks, plans. Pure Python, no clock, no tensors."""
