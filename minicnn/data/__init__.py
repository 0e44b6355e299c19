"""Fashion-MNIST as arrays, from CSV or IDX files; and what is done to images on their way to the network."""

from minicnn.data.augmentation import Augment
from minicnn.data.csv_files import load_csv, save_csv
from minicnn.data.fashion_mnist import CLASS_NAMES, Dataset, load_fashion_mnist
from minicnn.data.idx import load_idx, load_idx_images, load_idx_labels, save_idx
from minicnn.data.split import duplicates, split

__all__ = [
    "CLASS_NAMES",
    "Augment",
    "Dataset",
    "duplicates",
    "load_csv",
    "load_fashion_mnist",
    "load_idx",
    "load_idx_images",
    "load_idx_labels",
    "save_csv",
    "save_idx",
    "split",
]
