"""Baichuan-13B as its own code computes it: packed projections, ALiBi in the mask, made on the first run.

The code beside its weights (github.com/baichuan-inc/Baichuan-13B) is for releases of transformers long past.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn

LONGEST = 16


def slopes(heads):
    """ALiBi's slopes; five heads are no power of two, like the published forty."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start ** (1 + head) for head in range(heads)]
    lower = 2 ** math.floor(math.log2(heads))
    return slopes(lower) + slopes(2 * lower)[0::2][: heads - lower]


def alibi_mask(heads, longest):
    distance = torch.arange(longest)[None] - torch.arange(longest)[:, None]
    alibi = torch.tensor(slopes(heads))[:, None, None] * distance
    return torch.triu(torch.full((longest, longest), float("-inf")), 1)[None] + alibi


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = 1e-6

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.epsilon))


class MLP(nn.Module):
    def __init__(self, width, channels):
        super().__init__()
        self.gate_proj = nn.Linear(width, channels, bias=False)
        self.down_proj = nn.Linear(channels, width, bias=False)
        self.up_proj = nn.Linear(width, channels, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.hidden_size = width
        self.num_heads = heads
        self.head_dim = width // heads
        self.W_pack = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden_states, attention_mask):
        bsz, q_len, _ = hidden_states.size()
        packed = self.W_pack(hidden_states)
        packed = packed.unflatten(-1, (3, self.hidden_size)).unsqueeze(0).transpose(0, -2).squeeze(-2)
        query, key, value = (
            packed[part].view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2) for part in range(3)
        )
        weights = query @ key.transpose(2, 3) / math.sqrt(self.head_dim)
        weights = weights + attention_mask.unsqueeze(0)
        weights = torch.max(weights, torch.tensor(torch.finfo(weights.dtype).min).to(weights.device))
        output = (nn.functional.softmax(weights, dim=-1) @ value).transpose(1, 2)
        return self.o_proj(output.reshape(bsz, q_len, self.hidden_size))


class Layer(nn.Module):
    def __init__(self, width, heads, channels):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.mlp = MLP(width, channels)
        self.input_layernorm = RMSNorm(width)
        self.post_attention_layernorm = RMSNorm(width)

    def forward(self, hidden_states, attention_mask):
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), attention_mask)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Model(nn.Module):
    def __init__(self, width, heads, channels, layers, vocabulary):
        super().__init__()
        self.n_head = heads
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads, channels) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.first_run = True

    def mask(self, tensor, length):
        if self.first_run:
            self.first_run = False
            mask = alibi_mask(self.n_head, LONGEST).to(tensor)
            self.register_buffer("future_mask", mask, persistent=False)
        return self.future_mask[: self.n_head, :length, :length]

    def forward(self, input_ids):
        hidden_states = self.embed_tokens(input_ids)
        mask = self.mask(hidden_states, input_ids.shape[1])
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask)
        return self.norm(hidden_states)


class Baichuan13B(nn.Module):
    def __init__(self, width=5120, heads=40, channels=13696, layers=40, vocabulary=64000):
        super().__init__()
        self.model = Model(width, heads, channels, layers, vocabulary)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids, use_cache=None, **kwargs):
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids)))
