"""Our byte language model as a PyTorch module, with the names that an export gives.

Letters: B examples, T positions, C channels (the width).
"""

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Causal self-attention with a projection each for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [B, T, C] to [B, T, C]."""
        q, k, v = (
            project(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, four times as wide between them, with an exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [B, T, C] to [B, T, C]."""
        return self.down(functional.gelu(self.up(inputs)))


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [B, T, C] to [B, T, C]."""
        x = inputs + self.attention(self.norm1(inputs))
        return x + self.mlp(self.norm2(x))


class ByteLM(nn.Module):
    """Tables of bytes and positions, blocks, a norm and a head of its own."""

    def __init__(self, classes: int, positions: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(classes, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps bytes [B, T] (int32 or int64) to the logits [B, T, classes] of the next ones.

        Raises:
            ValueError: more positions than the network has.
        """
        length, most = inputs.shape[1], self.positions.num_embeddings
        if length > most:
            raise ValueError(f"byte_lm: expected at most {most} positions, got {length}")
        x = self.tokens(inputs) + self.positions.weight[:length]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build(
    name: str,
    *,
    classes: int,
    positions: int | None,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
) -> nn.Module:
    """Makes a byte language model with PyTorch's own random weights.

    Args:
        name: its name, for errors.
        classes: different bytes, in the inputs as in the outputs.
        positions: the largest T.
        width: channels, a multiple of the heads.
        depth: number of blocks.
        heads: of each attention.

    Raises:
        ValueError: an argument has another value.
    """
    sizes = {"positions": positions, "width": width, "depth": depth, "heads": heads}
    for key, size in sizes.items():
        if size is None or size < 1:
            raise ValueError(f"{name}: {key} must be a positive integer, got {size!r}")
    if width % heads:
        raise ValueError(f"{name}: width must be a multiple of the {heads} heads, got {width}")
    return ByteLM(classes, positions or 0, width=width, depth=depth, heads=heads)
