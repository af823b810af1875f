"""ImageNet (ILSVRC 2012) through TFDS: 1,281,167 training and 50,000 validation photographs.

TFDS prepares it once from the two archives that image-net.org gives to registered users, and needs
TensorFlow for that; reading needs none. The transforms are those of the paper's code.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from domino_jax.data import Data, Spec
from domino_jax.data.encoded import Example, from_encoded, require_sizes
from domino_jax.data.prepared import open_split, require_prepared, stock

_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}


def create(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 256) -> Data:
    """Opens ImageNet.

    Args:
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: processes that read ahead, best as many as there are cores to spare.
        size: S, pixels of a side.
        short: pixels of the shorter side, of which evaluation cuts the middle [S, S].

    Returns:
        Inputs are float32 [B, S, S, 3] of about zero mean and unit variance, labels 0 to 999 in the
        order of the WordNet numbers, as torchvision's networks have them. 'test' is the
        validation set.

    Raises:
        InputError: the data are not prepared, or `size` or `short` is out of range.
    """
    require_sizes(size, short)
    builder = stock("imagenet2012", data_dir)
    require_prepared(builder, _ARCHIVES)
    train, test = (_Records(_encoded(builder, split)) for split in _ARCHIVES)
    return from_encoded(
        train,
        test,
        classes=1000,
        size=size,
        short=short,
        workers=workers,
        fingerprint=builder.info.full_name,
    )


def spec(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 256) -> Spec:
    """Describes ImageNet; nothing is read. Arguments as for `create`."""
    del data_dir, workers
    require_sizes(size, short)
    example = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    return Spec(example, jax.ShapeDtypeStruct((1,), np.int32), 1000, 1_281_167, 50_000)


def _encoded(builder: Any, split: str) -> Any:
    """Opens a split whose images stay encoded."""
    return open_split(builder, split, decoders={"image": tfds.decode.SkipDecoding()})


@dataclass(frozen=True)
class _Records:
    """Examples of a TFDS data source."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        record = self.source[index]
        name = record["file_name"]
        return {
            "image": record["image"],
            "label": int(record["label"]),
            "name": name.decode() if isinstance(name, bytes) else str(name),
        }
