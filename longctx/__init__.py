"""longctx: train and study transformers at very long context. Import the submodule you need; nothing is loaded here."""
