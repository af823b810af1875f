"""VGG for CIFAR in PyTorch.

Letters: B examples, C channels, H, W image rows and columns.
"""

import torch
from torch import Tensor, nn

DEPTHS = {"vgg16_cifar": (2, 2, 3, 3, 3), "vgg19_cifar": (2, 2, 4, 4, 4)}  # convolutions of stages


class VGG(nn.Module):
    """Five stages of 3x3 convolutions numbered as torchvision's, mean over the image, `classifier`.

    With one linear layer it is the form of github.com/kuangliu/pytorch-cifar.
    """

    def __init__(self, depths: tuple[int, ...], *, classes: int, in_channels: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        inputs = in_channels
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                steps.append(nn.Conv2d(inputs, width, 3, padding=1))
                steps += [nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            steps.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*steps)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps images [B, C, H, W] to logits [B, classes]."""
        return self.classifier(torch.mean(self.features(inputs), (2, 3)))


def build(name: str, *, classes: int, channels: int) -> nn.Module:
    """Makes a VGG by its name."""
    return VGG(DEPTHS[name], classes=classes, in_channels=channels)
