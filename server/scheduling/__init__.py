"""Decides what runs next: sequences, blocks, plans. Pure Python, no clock, no tensors.

| | |
|---|---|
| `scheduler.py` | the face: requests in, steps out, results recorded; deadlines |
| `turns.py` | whose turn it is among the models, and how much of the time between two tokens it may take |
| `generation.py` `encoding.py` | a lane for each decoder or encoder-decoder, a lane for each encoder |
| `step_plan.py` | one step of a decoder: rows of streams, drafts, prompts |
| `recording.py` | what its results mean for its sequences |
| `rotation.py` | how much of it each tenant gets |
| `roster.py` | who waits, who has a seat, who waits for another's prefix |
| `waiting.py` `seats.py` | the queue; the seats, and who yields one to whom |
| `fairness.py` | what each tenant was served |
| `blocks.py` `prefix.py` | blocks, and the names of what they hold |
| `holdings.py` `inflight.py` | which sequence holds which; prefixes that are being computed now |
| `drafting.py` | guesses at the next tokens |
| `beams.py` | beam search: branches, the blocks that they share, the texts that have ended |
| `pace.py` | how long a step will take, learnt from those that ran |
| `sequence.py` `plan.py` | what is asked, and what crosses to the runner |
"""
