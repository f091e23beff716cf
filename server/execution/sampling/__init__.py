"""Logits in, tokens out: one per row, each row by its own parameters, in its own order.

First, whatever the order: `logit_bias` is added, then the bans are set (`bans.py`): nothing after them
brings a banned token back. Then the row's stages, in `Sampling.order`; a stage that the row does not ask
for, or that the order leaves out, does nothing, and one that is named twice acts where it is named first.

By default that is: penalties, DRY, temperature, top_n_sigma, top_k, typical_p, top_p, min_p, epsilon_cutoff,
eta_cutoff, XTC. Penalties come before temperature, as nearly everywhere; the other stages see what is really
sampled from. llama.cpp puts temperature last: then they see the untempered distribution, so that a high
temperature lets in nothing that they have ruled out. Both have their friends, and give different texts.

What a stage sees is the distribution at its place. Those before it have narrowed it and made it sum to one
again: a threshold, an entropy or a standard deviation is over what is left. A penalty that comes after such a
stage changes how what is left compares, and brings nothing back.

Two parameters change the list. `temperature` 0 is greedy: stages that change logits act, then the largest is
taken (the smallest id among equals), and no stage removes it. `mirostat` stands in for all the stages that
narrow: it acts after those that change logits.

Last, one uniform number chooses by inverse CDF among the tokens in falling order of logit, equals in order of
id. Only row-wise operations are used, whose bits do not depend on the other rows.
"""

from server.execution.sampling.row import Drawn, Row
from server.execution.sampling.sampler import adjust, adjusts, sample
from server.execution.sampling.surveys import TORCH, NativeSurveyor, Surveyor

__all__ = ["TORCH", "Drawn", "NativeSurveyor", "Row", "Surveyor", "adjust", "adjusts", "sample"]
