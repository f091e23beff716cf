"""We and others on one machine, one after the other, on the same weights and prompts.

`python -m tests.benchmarks.peers` installs each peer from the package index into an environment of its own,
measures it there, and prints what came out as tables, with how many times faster we are.
"""
