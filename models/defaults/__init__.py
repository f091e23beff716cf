"""What `triptych serve` loads when told nothing, and how it was made."""
