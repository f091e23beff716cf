"""How the masked-LM adapter in `models/defaults/minilm_mlm` was made. See `models/defaults/README.md`."""
