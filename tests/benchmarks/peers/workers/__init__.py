"""What runs in a peer's own environment. Imports nothing of ours, `ours.py` apart."""
