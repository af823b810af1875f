"""Makes small archives with the structure of ImageNet's, of parts of scikit-learn's photographs.

The files beside this one were made so, with tensorflow-cpu 2.21, tensorflow-datasets 4.9.10,
importlib_resources and array_record 0.8.6 installed (and scikit-learn for the first line):

    python make_archives.py data
    python -c "import tensorflow_datasets as tfds; tfds.builder('imagenet2012:5.1.0', data_dir='data').download_and_prepare(file_format='array_record')"
    cp -r data/imagenet2012 .
"""  # noqa: E501 (a command)

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = ("n01440764", "n01443537", "n02129165", "n15075141")
SIZES = ((160, 120), (120, 160), (200, 96), (128, 128))
GRAY = 4  # this one of the training images
RNG = np.random.default_rng(0)


def jpeg(photos, place):
    photo, (width, height) = photos[place % 2], SIZES[place % 4]
    tall = int(RNG.uniform(0.3, 0.6) * photo.height)
    wide = min(photo.width, int(tall * width / height))
    left = int(RNG.integers(photo.width - wide + 1))
    top = int(RNG.integers(photo.height - tall + 1))
    part = photo.crop((left, top, left + wide, top + tall)).resize((width, height))
    buffer = io.BytesIO()
    part.convert("L" if place == GRAY else "RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def main():
    manual = Path(sys.argv[1]) / "downloads" / "manual"
    manual.mkdir(parents=True)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as outer:
        for number, name in enumerate(CLASSES):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for k in range(3):
                    add(inner, f"{name}_{k + 1}.JPEG", jpeg(photos, 3 * number + k))
            add(outer, f"{name}.tar", buffer.getvalue())
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as outer:
        for k in range(6):
            add(outer, f"ILSVRC2012_val_{k + 1:08d}.JPEG", jpeg(photos, 12 + k))


if __name__ == "__main__":
    main()
