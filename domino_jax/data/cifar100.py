"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 in 100 classes."""

from domino_jax.data import Data, Spec
from domino_jax.data.cifar import from_builder, spec_of


def create(*, data_dir: str = "", workers: int = 0, augment: bool = True) -> Data:
    """Opens CIFAR-100.

    Args:
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: processes that read ahead; 0, threads, serves here.
        augment: pad each side of a training image by 4, crop at random, mirror half of them.

    Returns:
        Inputs are float32 [B, 32, 32, 3] of about zero mean and unit variance, labels 0 to 99.

    Raises:
        ValueError: the data are not prepared.
    """
    return from_builder("cifar100", data_dir, workers, augment)


def spec(*, data_dir: str = "", workers: int = 0, augment: bool = True) -> Spec:
    """Describes CIFAR-100; nothing is read. Arguments as for `create`."""
    del data_dir, workers, augment
    return spec_of(100)
