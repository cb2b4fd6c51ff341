"""One figure of a page and its file."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from matplotlib.image import imread

from ppvae.report.figures.picture import chart
from ppvae.report.figures.theme import BROAD, LIGHT, NARROW, Theme, canvas


def test_the_file_of_a_chart_is_the_figure_of_the_page() -> None:
    """Drawn once for a desk and once for a phone; a broad one has a narrower figure of its own in its file."""
    for broad, expected in ((False, []), (True, [LIGHT.width, LIGHT.width])):
        widths: list[float] = []

        def drawn(theme: Theme, widths: list[float] = widths) -> Figure:
            widths.append(theme.width)
            figure, (axes,) = canvas(theme)
            axes.plot([0, 1], [1, 2])
            return figure

        picture = chart("name", "Title", "alt", "caption", drawn, broad=broad)
        assert widths == [BROAD if broad else LIGHT.width, NARROW.width]
        first = picture.png()
        assert picture.png() == first
        assert widths[2:] == expected
        assert imread(io.BytesIO(first)).shape[1] == int(144 * LIGHT.width)
