"""Images as arrays, from known data sets or files of one's own; and what is done to them on their way to the network."""

from minicnn.data.augmentation import Augment
from minicnn.data.csv_files import load_csv, save_csv
from minicnn.data.dataset import Dataset
from minicnn.data.idx import load_idx, load_idx_images, load_idx_labels, save_idx
from minicnn.data.images import load_image_folder, read_image
from minicnn.data.known import CLASS_NAMES
from minicnn.data.sources import load_dataset, load_fashion_mnist
from minicnn.data.split import duplicates, split

__all__ = [
    "CLASS_NAMES",
    "Augment",
    "Dataset",
    "duplicates",
    "load_csv",
    "load_dataset",
    "load_fashion_mnist",
    "load_idx",
    "load_idx_images",
    "load_idx_labels",
    "load_image_folder",
    "read_image",
    "save_csv",
    "save_idx",
    "split",
]
