"""Structural pruning of causal language models: discovery, estimation, surgery, compensation."""
