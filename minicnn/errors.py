"""The errors minicnn raises on purpose, each with one line that says what was got and what was expected.

They derive from the built-in error a reader would guess, so `except ValueError` works too.
"""


class DataError(ValueError):
    """A data file or an array of images or labels is not what it should be."""


class ShapeError(ValueError):
    """Two shapes that must fit do not; raised when a model is built or first meets its input."""


class ModelFileError(ValueError):
    """A saved model cannot be read, or does not fit the model it is loaded into."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or belongs to another run, or another run is writing there."""


class DivergedError(ArithmeticError):
    """Training produced a loss or weights that are not finite, or weights that differ between ranks."""
