"""vLLM's transformers backend, with an attention for each layer that has that layer's number of heads."""

from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.transformers import TransformersForCausalLM

from pruner.export.vllm_plugin import heads_of


class PrunedForCausalLM(TransformersForCausalLM):  # type: ignore[misc]
    """The backend's own takes one number of heads for all layers and would read the wrong rows."""

    def create_attention_instances(self) -> dict[int, Attention]:
        """One attention, and so one shape of cache, for each layer of this rank."""
        head_size = self.model_config.get_head_size()
        parallel = self.parallel_config.tensor_parallel_size
        first, end = self.model_config.get_layers_start_end_indices(self.parallel_config)
        attentions = {}
        for layer in range(first, end):
            heads, shared = heads_of(self.text_config, layer, parallel)
            attentions[layer] = Attention(
                num_heads=heads,
                head_size=head_size,
                scale=head_size**-0.5,
                num_kv_heads=shared,
                cache_config=self.cache_config,
                quant_config=self.quant_config,
                prefix=f"{layer}.attn",
            )
        return attentions
