"""Charts: the same figures give the same bytes, and nothing in them can run."""

from html.parser import HTMLParser

import pytest

from madang.sim.plot import Chart, Series, page, round_values


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.paths: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.paths += [value for name, value in attrs if name == "d"]

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag


def chart(*series: Series, **changes: object) -> Chart:
    plain = {"title": "T", "about": "", "x_label": "x", "y_label": "y", "series": series}
    return Chart(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "of",
    [
        chart(),
        chart(Series("empty", ())),
        chart(Series("one", ((1.0, 2.0),))),
        chart(Series("level", ((0.0, 0.0), (9.0, 0.0)))),
        chart(Series("steps", ((1.0, 1.0), (1000.0, 3.0)), in_steps=True), x_is_log=True),
        chart(*(Series(str(n), ((0.0, 1.0 * n), (1.0, 2.0))) for n in range(9)), y_max=9),
    ],
)
def test_a_page_is_well_formed(of):
    text = page("title", "about", {"a": 1}, [of])
    parser = Balanced()
    parser.feed(text)

    assert parser.open == []
    assert "nan" not in text.lower()


def test_what_a_file_calls_itself_cannot_leave_its_text():
    evil = '"><script>alert(1)</script>'
    text = page(evil, evil, {evil: evil}, [chart(Series(evil, ((1.0, 1.0),)), title=evil)])

    assert "<script" not in text
    assert "default-src 'none'" in text


def test_a_line_goes_through_its_points_and_steps_go_round_them():
    line = page("", "", {}, [chart(Series("s", ((0.0, 0.0), (1.0, 5.0), (2.0, 10.0))))])
    steps = page("", "", {}, [chart(Series("s", ((0.0, 0.0), (2.0, 10.0)), in_steps=True))])

    assert 'd="M64.0 296.0L404.0 154.0L744.0 12.0"' in line
    assert 'd="M64.0 296.0H744.0V12.0"' in steps


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 130, [0, 25, 50, 75, 100, 125]),
        (3, 3, [3]),
        (0, 0.7, [0, 0.2, 0.4, 0.6]),
        (0.2, 59.9, [10, 20, 30, 40, 50]),
    ],
)
def test_marks_stand_at_round_values(low, high, values):
    assert round_values(low, high) == values
