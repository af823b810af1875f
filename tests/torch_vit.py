"""A vision transformer of PyTorch's own parts, with torchvision's state-dict names.

Written from the description in Dosovitskiy et al. 2021 (pre-norm, class token, exact GELU) with
`nn.MultiheadAttention`, for the environments that have no torchvision.
"""

import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(4 * width, width),
            nn.Dropout(0.0),
        )

    def forward(self, inputs):
        x = self.ln_1(inputs)
        x = inputs + self.self_attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Vit(nn.Module):
    def __init__(self, width, depth, heads, *, size, patch, channels, classes):
        super().__init__()
        self.conv_proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = (size // patch) ** 2 + 1
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, positions, width))
        layers = {f"encoder_layer_{i}": Layer(width, heads) for i in range(depth)}
        self.encoder.layers = nn.ModuleDict(layers)
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.ModuleDict({"head": nn.Linear(width, classes)})

    def forward(self, images):
        x = self.conv_proj(images).flatten(2).transpose(1, 2)
        token = self.class_token.expand(len(x), -1, -1)
        x = torch.cat([token, x], 1) + self.encoder.pos_embedding
        for layer in self.encoder.layers.values():
            x = layer(x)
        return self.heads["head"](self.encoder.ln(x)[:, 0])


def randomize(network, seed=0):
    """Draws every value, so that no norm, bias, token or position is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            norm = ".ln" in name and name.endswith("weight")
            fan_in = value[0].numel() if value.ndim in (2, 4) else 10.0
            value.normal_(float(norm), fan_in**-0.5, generator=generator)
    return network.eval()
