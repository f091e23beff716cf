"""PyTorch models and their weights. Knows nothing of the server."""
