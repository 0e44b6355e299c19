"""The data sets that minicnn knows: what their files hash to, where they are fetched, what their classes are called.

MNIST's files and Fashion-MNIST's have the same names, counts and sizes, so what was read is known by its content alone.

- `md5` has, for each upstream file, the MD5 of the file as it is distributed or of what is inside its gzip; either
  will do.
- `rows` are the digests (see `digest`) of the training and of the test images with their labels in any order: those of
  Kaggle's CSV files too.

Which of these were computed from the data: `rows`, and all digests of Fashion-MNIST and of MNIST (whose images were
put together again from another form). Which are copied from published code: KMNIST's are torchvision's, EMNIST's are
Deeplearning4j's (its archive's torchvision's), those of CIFAR-10's six files are in several C++ and Go projects (its
archive's on its own page). These three have no `rows`: as CSV files, or KMNIST and EMNIST without the upstream gzip,
they are an unknown data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLASS_NAMES = tuple("T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(","))


@dataclass(frozen=True)
class Known:
    """A data set of the table. Its files are IDX, training images and labels, then those of the test; or CIFAR-10's.

    `mirrors` are addresses of folders that hold each file with .gz at its end, or the `archive`, (name, MD5), with
    all of them.
    """

    title: str
    class_names: tuple[str, ...]
    md5: dict[str, str]
    mirrors: tuple[str, ...] = ()
    rows: tuple[str, str] | None = None
    archive: tuple[str, str] | None = None
    package: str = ""  # Debian's
    transposed: bool = False  # the files hold the images column by column


def _digests(names: Iterable[str], text: str) -> dict[str, str]:
    return dict(zip(names, text.split(), strict=True))


_MERGED = digits + ascii_uppercase + "abdefghnqrt"  # the other small letters look like capitals
_EMNIST = {
    "byclass": (
        digits + ascii_uppercase + ascii_lowercase,
        """712dda0bd6f00690f32236ae4325c377 ee299a3ee5faf5c31e9406763eae7e43
        1435209e34070a9002867a9ab50160d7 7a0f934bd176c798ecba96b36fda6657""",
    ),
    "bymerge": (
        _MERGED,
        """4a792d4df261d7e1ba27979573bf53f3 491be69ef99e1ab1f5b7f9ccc908bb26
        8eb5d34c91f1759a55831c37ec2a283f c13f4cd5211cdba1b8fa992dae2be992""",
    ),
    "balanced": (
        _MERGED,
        """4041b0d6f15785d3fa35263901b5496b 7a35cc7b2b7ee7671eddf028570fbd20
        6818d20fe2ce1880476f747bbc80b22b acd3694070dcbf620e36670519d4b32f""",
    ),
    "letters": (
        ["N/A", *ascii_lowercase],  # labelled from 1
        """8795078f199c478165fe18db82625747 c16de4f1848ddcdddd39ab65d2a7be52
        382093a19703f68edac6d01b8dfdfcad d4108920cd86601ec7689a97f2de7f59""",
    ),
    "digits": (
        digits,
        """d2662ecdc47895a6bbfce25de9e9a677 2223fcfee618ac9c89ef20b6e48bcf9e
        a159b8b3bd6ab4ed4793c1cb71a2f5cc 8afde66ea51d865689083ba6bb779fac""",
    ),
    "mnist": (
        digits,
        """3663598a39195d030895b6304abb5065 6c092f03c9bb63e678f80f8bc605fe37
        fb51b6430fc4dd67deaada1bf25d4524 ae7f6be798a9a5d5f2bd32e078a402dd""",
    ),
}

KNOWN = {
    "fashion_mnist": Known(  # Xiao, Rasul and Vollgraf, 2017
        "Fashion-MNIST",
        CLASS_NAMES,
        _digests(
            IDX,
            """f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9
            8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965""",
        ),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        rows=(
            "0c69d5cdeb902b69084012f812f066de080317bb3c64f43ca87f910d8ec86906",
            "90c92c0507755a7d443edde8297ce4d0f131e42884e2e87e7fc9b81ffe215258",
        ),
        package="dataset-fashion-mnist",
    ),
    "sample": Known(
        "Fashion-MNIST sample",
        CLASS_NAMES,
        {},
        rows=(
            "2156c1c4044262fd3a86c00173e3eade1b1b63e81768b4af4a7d7ce76a5affa8",
            "d8f0d51844b1c9938f4f1ef985f4c62c9932f66ac463428369f8cb839aa1ff40",
        ),
    ),
    "mnist": Known(  # LeCun, Cortes and Burges, 1998
        "MNIST",
        tuple(digits),
        _digests(
            IDX,
            """6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624
            2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637""",
        ),
        ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        rows=(
            "3655811c0e1223700a4714a92a51f55bd215ed7dc1fa2baa4326a2b58042d82d",
            "634538fb34c5277fce98470b8b285d1e8419eb87f328da42ef1faf690d2c3911",
        ),
    ),
    "kmnist": Known(  # Clanuwat et al., 2018
        "KMNIST",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        _digests(
            IDX,
            """bdb82020997e1d708af4cf47b453dcf7 e144d726b3acfaa3e44228e80efcd344
            5c965bf0a639b31b8f53240b1b52f4d7 7320c461ea6c1c855c0b718fb2a4b134""",
        ),
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    ),
    "cifar10": Known(  # Krizhevsky, 2009
        "CIFAR-10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        _digests(
            [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
            """5dd7e06a14cb22eb9f671a540d1b7c25 5ea93a67294ea407fff1d09f752e9692 942cd6a4bcdd0dd3c604fbe906cb4421
            ae636b3ba5c66a11e91e8cb52e771fcb 53f37980c15c3d472c316c40844f3f0d 803d5f7f4d78ea53de84dbe85f74fb6d""",
        ),
        ("https://www.cs.toronto.edu/~kriz/",),
        archive=("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
} | {
    f"emnist/{split}": Known(  # Cohen, Afshar, Tapson and van Schaik, 2017
        f"EMNIST {split}",
        tuple(class_names),
        _digests((f"emnist-{split}-{name.replace('t10k', 'test')}" for name in IDX), md5),
        ("https://biometrics.nist.gov/cs_links/EMNIST/",),
        archive=("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e"),
        transposed=True,
    )
    for split, (class_names, md5) in _EMNIST.items()
}


def identify(files: list[set[str]], train: tuple, test: tuple) -> Known | None:
    """What the data is, by its files' MD5s, a set for each, or else by its images and labels; None if it is unknown."""
    for known in KNOWN.values():
        wanted = list(known.md5.values())
        if wanted and len(wanted) == len(files) and all(a in b for a, b in zip(wanted, files, strict=True)):
            return known
    rows = digest(*train), digest(*test)
    return next((known for known in KNOWN.values() if known.rows == rows), None)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """A SHA-256 of the images with their labels, whatever their order: Kaggle's files have another than the IDX files.

    It is that of the sorted SHA-256s of all images. A sum or an exclusive or of them would be shorter and not enough:
    two equal images cancel each other in the latter, and other images with the same total can be found for both.
    """
    rows = (bytes([label % 256]) + image.tobytes() for image, label in zip(images, labels, strict=True))
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row).digest() for row in rows))).hexdigest()
