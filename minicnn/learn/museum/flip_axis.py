"""Mirror images that stand on their head.

What was wrong. At test time the outputs for an image and for its mirror image were averaged. The function that mirrored
turns axis 1 round. In one image (h, w) these are the columns; a batch has an axis more, and axis 1 is another one: in our
(n, h, w, c) the rows, so that images stand on their head. The second vote came from pictures never seen in training.

Where it was found. libffcv/ffcv #213, an example that trains fast on CIFAR-10. It had reported 92.3% on the test images,
and reports 94.2% with this mended. (The report speaks of images upside down. As we read it, its batches are (n, c, h, w),
and what changed places were the colours.)

Why nobody noticed. Turning an axis round twice gives the image back; shapes and pixels' values stay. And 92.3% is not
suspicious to one who does not know the other number. It was found when somebody left the averaging out, and got 93%.

What it costs. As much as averaging a good vote with a bad one: the trick that should add accuracy takes it away.

How it is caught. By a picture that is not symmetrical, one bright pixel in a corner. And measure each trick without it.
"""

from __future__ import annotations

import numpy as np

from minicnn.inputs import warp
from minicnn.learn.museum._tools import normal

SOURCE = "libffcv/ffcv #213"


def flip_axis_1(images):
    """Axis 1 of a batch (n, h, w, c) turned round."""
    return images[:, ::-1]


def mirror(images):
    """As the library does in augmentation: pixel (i, j) is read at (i, w - 1 - j)."""
    columns = images.shape[2]
    return np.stack([warp(image, np.array([[1.0, 0, 0], [0, -1, columns - 1]])) for image in images])


WRONG, RIGHT = flip_axis_1, mirror


def weak_test(flip=WRONG):
    """Shape and values stay, and twice is not at all."""
    images = normal(2, 4, 4, 1)
    assert flip(images).shape == images.shape
    assert np.allclose(np.sort(flip(images), axis=None), np.sort(images, axis=None))
    assert np.allclose(flip(flip(images)), images)


def strong_test(flip=WRONG):
    """What is at the upper left comes to the upper right."""
    images = np.zeros((1, 3, 4, 1))
    images[0, 0, 0] = 1
    place = np.unravel_index(flip(images).argmax(), images.shape)
    assert tuple(map(int, place)) == (0, 0, 3, 0), f"row 0, column 0 came to row {place[1]}, column {place[2]}"
