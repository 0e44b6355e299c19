"""What several commands ask for in the same words."""

DATA_HELP = (
    "auto (Fashion-MNIST), sample, mnist, kmnist, emnist/letters, cifar10 and the like, a folder with CSV or IDX files,"
    " or one that holds a folder of images for each class (default: auto)"
)
MODEL_HELP = "a file that model.save wrote, such as runs/<time>/model.npz"
