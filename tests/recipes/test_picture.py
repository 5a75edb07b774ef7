"""The picture of panels, read back as the XML that it is."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import merge_optuna as mo
from merge_optuna.recipes import Panel, range_of, route_panels, svg_of
from tests import toys

SVG = "{http://www.w3.org/2000/svg}"


def panel(name: str, values: np.ndarray) -> Panel:
    rows = tuple(f"{i:02}" for i in range(len(values)))
    return Panel(name, rows, tuple("abcdefgh"[: values.shape[1]]), values)


def read(svg: str) -> dict[str, list[tuple[float, float, str, str]]]:
    """For each panel its cells: x, y, colour and text."""
    root = ElementTree.fromstring(svg)
    return {
        group.get("data-panel", ""): [
            (
                float(rect.get("x", "")),
                float(rect.get("y", "")),
                rect.get("fill", ""),
                "".join(cell.find(f"{SVG}text").itertext()),  # type: ignore[union-attr]
            )
            for cell in group.findall(f"{SVG}g")
            for rect in cell.findall(f"{SVG}rect")
        ]
        for group in root.findall(f"{SVG}g")
    }


def test_every_number_at_its_place() -> None:
    rng = np.random.default_rng(0)
    given = {"weight": rng.random((34, 3)), "density": rng.normal(size=(34, 3))}
    found = read(svg_of([panel(name, values) for name, values in given.items()], "title"))
    assert found.keys() == given.keys()
    for name, cells in found.items():
        columns, rows = (sorted({cell[i] for cell in cells}) for i in (0, 1))
        shown = np.full(given[name].shape, np.nan)
        for x, y, _, text in cells:
            shown[rows.index(y), columns.index(x)] = float(text)
        np.testing.assert_allclose(shown, given[name], rtol=5e-3)
    assert max(c[0] for c in found["weight"]) < min(c[0] for c in found["density"]), "side by side"


def darkness(colour: str) -> int:
    return 765 - sum(int(part, 16) for part in re.findall("..", colour[1:]))


def test_darker_is_more() -> None:
    values = np.array([[0.1, 0.4], [0.2, 0.9], [np.nan, 0.3]])
    cells = read(svg_of([panel("weight", values)], "t"))["weight"]
    known = [(float(text), darkness(fill)) for _, _, fill, text in cells if text]
    assert len(known) == 5
    assert [d for _, d in sorted(known)] == sorted(d for _, d in known)
    assert len({d for _, d in known}) == 5
    blue, red = (c[2] for c in read(svg_of([panel("w", np.array([[1.0, -1.0]]))], "t"))["w"])
    assert int(blue[5:], 16) > int(blue[1:3], 16)
    assert int(red[1:3], 16) > int(red[5:], 16)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5], (0, 0.5)), ([-0.5, 2.0], (-2, 2)), ([0.0, 0.0], (0, 1)), ([3.0], (0, 3))],
)
def test_where_colours_begin(values: list[float], expected: tuple[float, float]) -> None:
    assert range_of(np.array([values])) == expected


def test_numbers_far_from_0_are_told_apart() -> None:
    low, high = range_of(np.array([[0.9, 1.0]]))
    assert 0 < low < 0.9
    assert high == 1


def test_words_are_text() -> None:
    name = "<b>&\"'"
    odd = Panel(name, ("model.layers.0.self_attn.q_proj.weight",), (name,), np.array([[1.0]]))
    svg = svg_of([odd], "ja & <math>")
    root = ElementTree.fromstring(svg)
    assert root.find(f"{SVG}title").text == "ja & <math>"  # type: ignore[union-attr]
    assert [*read(svg)] == [name]
    whole = [title.text for title in root.iter(f"{SVG}title")]
    assert "model.layers.0.self_attn.q_proj.weight" in whole, "what is cut is told on pointing"


def test_it_fits_on_a_page() -> None:
    many = [panel(str(i), np.ones((4, 6))) for i in range(5)]
    svg = svg_of(many, "t")
    width, height = (float(ElementTree.fromstring(svg).get(a, "")) for a in ("width", "height"))
    cells = [cell for found in read(svg).values() for cell in found]
    assert len({(x, y) for x, y, *_ in cells}) == len(cells) == 120, "none over another"
    assert max(x for x, *_ in cells) < width < 900
    assert max(y for _, y, *_ in cells) < height


def test_a_path_is_a_table_of_steps(tmp_path: Path) -> None:
    models = toys.family(tmp_path, experts=2)[1:]
    layer, scale = route_panels(mo.recipes.path("A0-B1×0.5-A1", models))
    nan = np.nan
    assert layer.columns == ("ja", "math")
    np.testing.assert_equal(layer.values, [[0, nan], [nan, 1], [1, nan]])
    np.testing.assert_equal(scale.values, [[1, nan], [nan, 0.5], [1, nan]])
    assert [panel.parameter for panel in route_panels(mo.recipes.path("A0-B1", models))] == [
        "layer"
    ]
    assert route_panels(mo.recipes.linear(models)) == ()
