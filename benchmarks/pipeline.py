"""Images a second and core: our transforms for ImageNet against torchvision's, written with Pillow.

    python -m benchmarks.pipeline

Photographs of 500x375 (parts of scikit-learn's two), as JPEG of quality 95.
One thread each; the other code is what torchvision 0.28 does, step by step, in Pillow and PyTorch:
`pip install torch==2.13.0`. Then what a training loop gets through grain. A minute on one core.
"""

import argparse
import io
import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib import metadata

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.clock import Times, in_turns, machine, print_table, ratio, spread
from domino_jax.data import stream
from domino_jax.data.encoded import Example, from_encoded
from domino_jax.data.images import evaluation_image, lighting, normalize, train_image

BILINEAR = Image.Resampling.BILINEAR
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
VECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
GOAL = 1.5


def photographs(count: int) -> list[bytes]:
    """Makes JPEGs of 500x375 from random parts of two photographs."""
    whole = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    made = []
    for place in range(count):
        photo = whole[place % 2]
        height = round(photo.height * rng.uniform(0.88, 1))
        width = round(height * 500 / 375)
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height)).resize((500, 375))
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=95)
        made.append(buffer.getvalue())
    return made


def ours_train(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Makes one training image, float32 [224, 224, 3]."""
    return normalize(train_image(data, rng, 224)[None], lighting(rng)[None])[0]


def ours_evaluate(data: bytes) -> np.ndarray:
    """Makes one evaluation image, float32 [224, 224, 3]."""
    return normalize(evaluation_image(data, 224, 256)[None])[0]


def pil_loader(data: bytes) -> Image.Image:
    """Decodes as torchvision.datasets.folder.pil_loader."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def crop_parameters(height: int, width: int) -> tuple[int, int, int, int]:
    """Draws as torchvision.transforms.RandomResizedCrop.get_params: left, top, right, bottom."""
    low, high = torch.log(torch.tensor((3 / 4, 4 / 3)))
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1.0).item()
        aspect = torch.exp(torch.empty(1).uniform_(float(low), float(high))).item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, size=(1,)).item())
            left = int(torch.randint(0, width - w + 1, size=(1,)).item())
            return left, top, left + w, top + h
    return 0, 0, width, height  # never for these sizes


def to_tensor(photo: Image.Image) -> torch.Tensor:
    """Converts as torchvision.transforms.ToTensor."""
    pixels = torch.from_numpy(np.array(photo, np.uint8, copy=True))
    return pixels.permute((2, 0, 1)).contiguous().to(torch.float32).div(255)


def lit(pixels: torch.Tensor) -> torch.Tensor:
    """Adds AlexNet's colour noise, as in fb.resnet.torch and its ports."""
    alpha = pixels.new_empty(3).normal_(0, 0.1)
    colors = VECTORS.mul(alpha.view(1, 3).expand(3, 3)).mul(VALUES.view(1, 3).expand(3, 3))
    return pixels.add(colors.sum(1).view(3, 1, 1).expand_as(pixels))


def theirs_train(data: bytes) -> torch.Tensor:
    """Makes one training image, float32 [3, 224, 224]."""
    photo = pil_loader(data)
    photo = photo.crop(crop_parameters(photo.height, photo.width)).resize((224, 224), BILINEAR)
    if torch.rand(1) < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return lit(to_tensor(photo)).sub_(MEAN).div_(STD)


def theirs_evaluate(data: bytes) -> torch.Tensor:
    """Makes one evaluation image, float32 [3, 224, 224]."""
    photo = pil_loader(data)
    short = min(photo.size)
    width, height = (256 * side // short for side in photo.size)
    photo = photo.resize((width, height), BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return to_tensor(photo.crop((left, top, left + 224, top + 224))).sub_(MEAN).div_(STD)


def transforms(encoded: list[bytes], rounds: int) -> Times:
    """Returns core seconds of each round over all photographs."""
    rng = np.random.default_rng(0)

    def each(transform: Callable[[bytes], object]) -> Callable[[], None]:
        def call() -> None:
            for data in encoded:
                transform(data)

        return call

    work = {
        "training": each(partial(ours_train, rng=rng)),
        "training, Pillow": each(theirs_train),
        "evaluation": each(ours_evaluate),
        "evaluation, Pillow": each(theirs_evaluate),
    }
    return in_turns(work, rounds)[1]


class Photographs:
    """The photographs as a data set that goes on for a while."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return 100 * len(self.encoded)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.encoded[index % len(self.encoded)], "label": 0, "name": str(index)}


def through_grain(encoded: list[bytes], batches: int) -> float:
    """Returns training images a core second of one reading thread, batching by grain included."""
    source = Photographs(encoded)
    made = from_encoded(source, source, classes=1, size=224, short=256, workers=0, fingerprint="")
    with closing(stream(made.train(0, 64), threads=1)) as running:
        next(running)
        start = time.process_time()
        for _ in range(batches):
            next(running)
        return 64 * batches / (time.process_time() - start)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("opencv-python-headless", "pillow", "grain")
    print(", ".join([machine(), *(f"{name} {metadata.version(name)}" for name in packages)]))
    encoded = photographs(options.images)
    times = transforms(encoded, options.rounds)
    size = sum(map(len, encoded)) / len(encoded) / 1000
    print(
        f"\n{len(encoded)} JPEGs of 500x375, {size:.0f} kB on average; core milliseconds an image:"
    )
    print(f"median (quartiles) of {options.rounds} rounds\n")
    rows = []
    for name in ("training", "evaluation"):
        theirs = f"{name}, Pillow"
        ours_ms, theirs_ms = (spread(times[key] / len(encoded), digits=2) for key in (name, theirs))
        speed = len(encoded) / np.median(times[name])
        faster = f"{ratio(times, theirs, name):.2f}"
        rows.append([name, ours_ms, theirs_ms, f"{speed:.0f}", faster, str(GOAL)])
    header = ["transform", "ours", "Pillow", "ours, images/s", "times as fast", "goal"]
    print_table(header, rows)
    print(f"\nthrough grain: {through_grain(encoded, 10):.0f} training images a core second")


if __name__ == "__main__":
    main()
