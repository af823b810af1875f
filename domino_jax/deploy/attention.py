"""Packed attention projections as modules of their own, so that they can run sparse; PyTorch alone.

`nn.MultiheadAttention` holds its query, key and value projections in one tensor and reads it
itself; here they are one `nn.Linear`, followed by `scaled_dot_product_attention`.
Letters: B examples, L positions, C channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class Attention(nn.Module):
    """An `nn.MultiheadAttention` in evaluation; shares its weights."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        size, bias = source.embed_dim, source.in_proj_bias is not None
        self.heads, self.batch_first = source.num_heads, source.batch_first
        self.in_proj = nn.Linear(size, 3 * size, bias=bias, device="meta")
        self.out_proj = nn.Linear(size, size, bias=bias, device="meta")
        self.in_proj.weight, self.in_proj.bias = source.in_proj_weight, source.in_proj_bias
        self.out_proj.weight, self.out_proj.bias = source.out_proj.weight, source.out_proj.bias

    def forward(  # the interface of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Maps [B, L, C], or [L, B, C] where not batch_first, as `nn.MultiheadAttention`.

        Raises:
            ValueError: key_padding_mask, which is not known here, or inputs without a batch.
        """
        del is_causal  # a hint there, beside attn_mask
        if key_padding_mask is not None or query.ndim != 3:
            raise ValueError("split attention: expected a batch and no key_padding_mask")
        q, k, v = self._heads(query, key, value)
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.heads))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # True is "leave out" there and "take part" here
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        outputs = self.out_proj(mixed if self.batch_first else mixed.transpose(0, 1).contiguous())
        if not need_weights:
            return outputs, None
        shares = _shares(q, k, attn_mask)
        return outputs, shares.mean(1) if average_attn_weights else shares

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Projects to query, key and value of each head: [B, heads, L, C / heads]."""
        inputs = (query, key, value)
        if query is key and key is value:
            parts = self.in_proj(query).chunk(3, -1)
        else:  # a packed matrix cannot be cut: three whole products
            parts = tuple(self.in_proj(x).chunk(3, -1)[i] for i, x in enumerate(inputs))
        if not self.batch_first:
            parts = tuple(x.transpose(0, 1) for x in parts)
        return tuple(x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)


def _shares(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Computes the attention weights [B, heads, L, L'], which the fused product keeps to itself."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    return scores.softmax(-1)


def split(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """Replaces attentions by path, in place.

    Those with key or value sizes or extra positions of their own stay as they are, and so do those
    in PyTorch's transformer layers, which read the packed tensor.

    Returns:
        What was there, by path.
    """
    before: dict[str, nn.Module] = {}
    for path in paths:
        parent, _, name = path.rpartition(".")
        above, module = model.get_submodule(parent), model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention) and not isinstance(above, TRANSFORMERS):
            same = module.in_proj_weight is not None  # one tensor for query, key and value
            if same and module.bias_k is None and not module.add_zero_attn:
                before[path] = module
                setattr(above, name, Attention(module))
    return before
