"""One file for llama.cpp: the model's shape, its weights and its tokenizer."""

from pruner.export.to_gguf.quantisation import QUANTISATIONS, check_tool, quantise
from pruner.export.to_gguf.verification import verify_gguf
from pruner.export.to_gguf.writing import round_weights, write_gguf

__all__ = ["QUANTISATIONS", "check_tool", "quantise", "round_weights", "verify_gguf", "write_gguf"]
