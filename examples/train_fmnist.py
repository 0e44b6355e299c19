"""Train a network on Fashion-MNIST and show what it learnt and what it got wrong: the same as `minicnn train`.

python examples/train_fmnist.py --help
"""

import sys

from minicnn.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
