"""plot.components: every column is an image of its own, in its place."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import unmerge
from unmerge import plot

matplotlib.use("Agg")


def test_components_are_tiled_row_by_row() -> None:
    import matplotlib.pyplot as plt

    W = np.arange(1.0, 31).reshape(6, 5)  # five images of 2 x 3
    figure, given = plt.subplots()
    assert plot.components(W, (2, 3), ax=given, across=2) is given
    sheet = given.images[0].get_array().filled(np.nan)
    assert sheet.shape == (3 * 3 - 1, 2 * 4 - 1)
    for j in range(5):
        top, left = 3 * (j // 2), 4 * (j % 2)
        tile = sheet[top : top + 2, left : left + 3]
        np.testing.assert_allclose(tile, W[:, j].reshape(2, 3) / W[:, j].max())
    assert np.isnan(sheet[2]).all() and np.isnan(sheet[:, 3]).all()  # gaps
    assert np.isnan(sheet[6:, 4:]).all()  # no sixth
    assert given.images[0].get_clim() == (0, 1)
    plt.close(figure)


def test_signed_components_have_zero_in_the_middle() -> None:
    import matplotlib.pyplot as plt

    ax = plot.components(np.array([[1.0, 0], [-2, 0], [0, 0], [1, 0]]), (2, 2))
    assert ax.images[0].get_clim() == (-1, 1)
    assert ax.images[0].get_array()[1, 0] == 0 and ax.images[0].get_array()[0, 1] == -1
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("W", "options", "named"),
    [
        (np.ones((5, 2)), {}, "expected 6 rows"),
        (np.ones(6), {}, "W is"),
        (np.ones((6, 0)), {}, "W is"),
        (np.ones((6, 2)), {"across": -1}, "across is -1"),
    ],
)
def test_bad_calls_are_named(W: np.ndarray, options: dict[str, int], named: str) -> None:
    with pytest.raises(unmerge.InvalidValue, match=named):
        plot.components(W, (2, 3), **options)
