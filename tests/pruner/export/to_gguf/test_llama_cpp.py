"""llama.cpp itself reads what was written; needs llama-cpp-python (docs/export.md says how to get it)."""

import ctypes

import numpy as np
import pytest
import torch

from pruner.export.to_gguf.writing import round_weights, write_gguf
from tests.pruner.export.to_gguf.conftest import model_of

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

pytestmark = pytest.mark.llamacpp

F32 = 0
"""ggml's number for a cache of keys and values in float32; llama.cpp's own choice is float16."""

TEXTS = (
    "Once upon a time, there was a little girl.",
    "  two spaces, then\ttabs\n\nand 12345 digits; naïve café — 日本語 🙂",
    "",
    "I'll don't we're",
)


def opened(path):
    cache = {"type_k": F32, "type_v": F32}
    return llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, verbose=False, **cache)


def written(model, tokenizer, path, dtype=torch.float32):
    round_weights(model, dtype)
    write_gguf(model, tokenizer, path, dtype)
    return opened(path)


def logits(llama, ids):
    llama.reset()
    llama.eval(ids)
    return torch.from_numpy(np.array(llama.scores[: len(ids)]))


def greedy(llama, ids, new_tokens):
    """Continue one token at a time, from the cache of keys and values."""
    llama.reset()
    llama.eval(ids)
    for _ in range(new_tokens):
        ids = [*ids, int(llama.scores[llama.n_tokens - 1].argmax())]
        llama.eval(ids[-1:])
    return ids


@torch.no_grad()
def test_llama_cpp_computes_what_torch_computes(model, sentencepiece, tmp_path):
    llama = written(model, sentencepiece, tmp_path / "out.gguf")
    ids = torch.arange(40)[None]
    torch.testing.assert_close(logits(llama, ids[0].tolist()), model(ids).logits[0], rtol=0, atol=1e-3)


def test_llama_cpp_continues_a_text_as_torch_does(model, sentencepiece, tmp_path):
    llama = written(model, sentencepiece, tmp_path / "out.gguf")
    ids = torch.arange(3, 15)[None]
    expected = model.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False)[0].tolist()
    assert greedy(llama, ids[0].tolist(), 24) == expected


@torch.no_grad()
def test_in_float16_llama_cpp_computes_what_the_rounded_model_computes(sentencepiece, tmp_path):
    model = model_of("llama, layers that differ")
    llama = written(model, sentencepiece, tmp_path / "out.gguf", torch.float16)
    ids = torch.arange(40)[None]
    expected = model(ids).logits[0]
    difference = (logits(llama, ids[0].tolist()) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-2  # llama.cpp also rounds what goes into a float16 matrix


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_splits_a_text_into_the_same_tokens(tokenizer, tmp_path, text):
    model = model_of("llama, equal layers")
    model.resize_token_embeddings(len(tokenizer))
    llama = written(model, tokenizer, tmp_path / "out.gguf")
    assert llama.tokenize(text.encode(), add_bos=True, special=False) == tokenizer(text).input_ids


@torch.no_grad()
def test_a_pruned_model_of_real_stories_tells_the_same_story(stories, tmp_path):
    from tests.pruner.export.to_gguf.conftest import cut

    model, tokenizer = stories
    cut(model, (1, 2))
    llama = written(model, tokenizer, tmp_path / "out.gguf")
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=40, min_new_tokens=40, do_sample=False)[0].tolist()
    assert greedy(llama, ids[0].tolist(), 40) == expected


def test_llama_cpps_own_quantisation_takes_the_file(sentencepiece, tmp_path):
    written(model_of("llama, layers that differ"), sentencepiece, tmp_path / "out.gguf").close()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    paths = [str(tmp_path / name).encode() for name in ("out.gguf", "small.gguf")]
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)) == 0
    assert logits(opened(tmp_path / "small.gguf"), list(range(40))).isfinite().all()
