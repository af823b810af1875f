"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 in 10 classes."""

from domino_jax.data import Data, Spec
from domino_jax.data.cifar import from_builder, spec_of


def create(*, data_dir: str = "", workers: int = 0, augment: bool = True) -> Data:
    """Opens CIFAR-10.

    Args:
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: processes that read ahead; 0, threads, serves here.
        augment: pad each side of a training image by 4, crop at random, mirror half of them.

    Returns:
        Inputs are float32 [B, 32, 32, 3] of about zero mean and unit variance, labels 0 to 9.

    Raises:
        ValueError: the data are not prepared.
    """
    return from_builder("cifar10", data_dir, workers, augment)


def spec(*, data_dir: str = "", workers: int = 0, augment: bool = True) -> Spec:
    """Describes CIFAR-10; nothing is read. Arguments as for `create`."""
    del data_dir, workers, augment
    return spec_of(10)
