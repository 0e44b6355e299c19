"""A page that shows every sum of a network for one image, forward and backward: `explain(model, image, path)`.

The page is one HTML file that needs no network and no server. `page.py` writes into it the image, the layers and their
weights, and nothing that is computed: the JavaScript beside it runs the same network once more, in float64, and shows where
each number comes from. Read `layers.mjs` and `sums.mjs` for that.
"""

from minicnn.explain.page import explain

__all__ = ["explain"]
