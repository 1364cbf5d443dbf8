"""GGUF files as Hugging Face folders. Free of jax.

folder.py makes the folder, dialects.py its config.json and the names of its tensors, tokenizer.py its tokenizer files;
file.py reads metadata and dequantized tensors: header.py what is before them, quantized.py their values, the rarer
kinds with the library `gguf` (extra [gguf]). The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""
