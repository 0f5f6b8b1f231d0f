"""Line charts as one HTML file: inline SVG, no script, nothing fetched from anywhere.

A page is a pure function of its charts, so equal results give equal bytes. Lines differ by colour
and by dash, so that a print in grey can be read too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44
TICKS = 6
EDGE = 12  # pixels: half a label, less what there is to the right of the axis
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "14 4", "4 6")
_STYLE = """
:root{--bg:#fff;--ink:#12161f;--quiet:#566176;--line:#dfe3ea;
--c0:#0b66c3;--c1:#c2410c;--c2:#0f7a54;--c3:#8533b8;--c4:#8f5c00;--c5:#4b5667}
@media (prefers-color-scheme:dark){:root{--bg:#0a0c10;--ink:#edf0f6;--quiet:#a4aebf;--line:#2b3342;
--c0:#5ab0ff;--c1:#ff9a6b;--c2:#52c79a;--c3:#d79bff;--c4:#f2b544;--c5:#a4aebf}}
body{background:var(--bg);color:var(--ink);font:14px/1.5 system-ui,sans-serif;
max-width:800px;margin:32px auto;padding:0 20px}
h1{font-size:20px;margin:0 0 4px}h2{font-size:15px;margin:32px 0 4px}
p{color:var(--quiet);margin:0 0 8px}svg{width:100%;height:auto;display:block}
svg text{fill:var(--quiet);font-size:12px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line)}.axis{stroke:var(--quiet)}
.curve{fill:none;stroke-width:2;stroke-linejoin:round}
ul{list-style:none;padding:0;margin:0 0 4px;display:flex;flex-wrap:wrap;gap:4px 20px}
li svg{display:inline-block;width:28px;height:10px;margin-right:6px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:2px 24px 2px 0;border-bottom:1px solid var(--line)}td:first-child{color:var(--quiet)}
th{color:var(--quiet);font-weight:400;text-align:left;vertical-align:bottom}
.wide{overflow-x:auto}.wide td,.wide th{padding-right:14px;white-space:nowrap}
.wide td:first-child{color:var(--ink)}.n{text-align:right}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points (x, y) in the order of x. In steps, each y holds until the next x."""

    name: str
    points: tuple[tuple[float, float], ...]
    in_steps: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. `x_ticks` are (x, label), none: round numbers. On a log axis every x is > 0."""

    title: str
    about: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...] = ()
    x_is_log: bool = False
    y_max: float = 0


@dataclass(frozen=True, slots=True)
class Bars:
    """Stacked bars, one a row: (label, a value for each of `parts`). Values are not negative."""

    title: str
    about: str
    unit: str
    parts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Words in the first `words` columns, numbers that stand right in the others."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


Section = Chart | Bars | Table


def page(title: str, about: str, facts: Mapping[str, object], charts: Sequence[Section]) -> str:
    """A whole HTML document: the sections, then the facts as a table."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>\n"
        for name, value in facts.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>\n"
        + "".join(map(_any_section, charts))
        + f"<h2>Figures</h2><table>\n{rows}</table></body></html>\n"
    )


def _any_section(section: Section) -> str:
    match section:
        case Bars():
            return _bars(section)
        case Table():
            return _table(section)
        case _:
            return _section(section)


def _section(chart: Chart) -> str:
    names = "".join(
        f'<li><svg viewBox="0 0 28 10" aria-hidden="true"><path class="curve" d="M0 5H28" '
        f"{_stroke(at)}/></svg>{escape(series.name)}</li>"
        for at, series in enumerate(chart.series)
    )
    return (
        f"<section><h2>{escape(chart.title)}</h2><p>{escape(chart.about)}</p>"
        f"<ul>{names}</ul>\n{_svg(chart)}</section>\n"
    )


def _stroke(at: int) -> str:
    dash = _DASHES[at % len(_DASHES)]
    return f'style="stroke:var(--c{at % 6})"' + (f' stroke-dasharray="{dash}"' if dash else "")


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (
            (log10(self.low), log10(self.high), log10(value))
            if self.is_log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.0
        return round(self.begin + share * (self.end - self.begin), 1)


def _svg(chart: Chart) -> str:
    xs = [x for series in chart.series for x, _ in series.points] or [1.0]
    ys = [y for series in chart.series for _, y in series.points] or [1.0]
    x_axis = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, chart.x_is_log)
    y_axis = _Axis(0.0, chart.y_max or max(*ys, 1e-9), HEIGHT - BOTTOM, TOP)
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    x_label, y_label = escape(chart.x_label), escape(chart.y_label)
    centre = (LEFT + WIDTH - RIGHT) / 2
    turned = f'transform="translate(14 {middle}) rotate(-90)"'
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        *_y_marks(y_axis),
        *_x_marks(x_axis, chart.x_ticks),
        f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}" fill="none"/>',
        f'<text x="{centre}" y="{HEIGHT - 6}" text-anchor="middle">{x_label}</text>',
        f'<text {turned} text-anchor="middle">{y_label}</text>',
    ]
    for at, series in enumerate(chart.series):
        path = _path([(x_axis.at(x), y_axis.at(y)) for x, y in series.points], series.in_steps)
        parts.append(
            f'<path class="curve" d="{path}" {_stroke(at)}>'
            f"<title>{escape(series.name)}</title></path>"
        )
    return "\n".join([*parts, "</svg>"])


def _path(points: Sequence[tuple[float, float]], in_steps: bool) -> str:
    """The line as SVG path words; a single point is a dash that can be seen."""
    if not points:
        return ""
    (x, y), *rest = points
    words = [f"M{x} {y}", *(f"H{x}V{y}" if in_steps else f"L{x} {y}" for x, y in rest)]
    return "".join(words if rest else [*words, "h3"])


def _y_marks(axis: _Axis) -> list[str]:
    return [
        f'<path class="grid" d="M{LEFT} {axis.at(value)}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{axis.at(value) + 4}" text-anchor="end">{value:g}</text>'
        for value in round_values(axis.low, axis.high)
    ]


def _x_marks(axis: _Axis, ticks: Sequence[tuple[float, str]]) -> list[str]:
    if not ticks:
        ticks = [(value, f"{value:g}") for value in round_values(axis.low, axis.high)]
    return [
        f'<path class="grid" d="M{axis.at(value)} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{axis.at(value)}" y="{HEIGHT - BOTTOM + 18}" text-anchor='
        f'"{_anchor(axis.at(value))}">{escape(label)}</text>'
        for value, label in ticks
        if axis.low <= value <= axis.high
    ]


def _anchor(x: float) -> str:
    """A label at the right edge ends there: it would be cut off."""
    return "end" if x > WIDTH - RIGHT - EDGE else "middle"


def round_values(low: float, high: float) -> list[float]:
    """At most TICKS + 1 multiples of 1, 2, 2.5 or 5 · 10^k from low to high."""
    if high <= low:
        return [low]
    rough = (high - low) / TICKS
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough)
    first = -floor(-low / step)
    return [round(n * step, 10) for n in range(first, floor(high / step + 1e-9) + 1)]


# -- bars and tables -----------------------------------------------------------------------------

ROW, BAR, LABEL = 26, 16, 170  # pixels: a bar's row, the bar, the room for its label
# Parts differ by pattern too: solid, then stripes this way, stripes that way, dots.
_PATTERNS = (
    "",
    '<path d="M-1 7L7 -1M3 11L11 3" stroke="var(--c{c})" stroke-width="2.5"/>',
    '<path d="M-1 1L7 9M3 -3L11 5" stroke="var(--c{c})" stroke-width="1.5"/>',
    '<circle cx="4" cy="4" r="1.6" fill="var(--c{c})"/>',
)


def _fill(at: int) -> str:
    return f"var(--c{at % 6})" if at % 4 == 0 else f"url(#p{at})"


def _patterns(parts: int) -> str:
    made = "".join(
        f'<pattern id="p{at}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f"{_PATTERNS[at % 4].format(c=at % 6)}</pattern>"
        for at in range(parts)
        if at % 4
    )
    return f"<defs>{made}</defs>"


def _bars(bars: Bars) -> str:
    """Rows under each other, all on one axis from 0."""
    most = max((sum(values) for _, values in bars.rows), default=0.0) or 1.0
    axis = _Axis(0.0, most, LABEL, WIDTH - RIGHT)
    height = ROW * len(bars.rows) + BOTTOM
    names = "".join(
        f'<li><svg viewBox="0 0 28 10" aria-hidden="true">{_patterns(len(bars.parts))}'
        f'<rect width="28" height="10" fill="{_fill(at)}" stroke="var(--c{at % 6})"/></svg>'
        f"{escape(name)}</li>"
        for at, name in enumerate(bars.parts)
    )
    rows = "".join(_bar(bars, axis, at) for at in range(len(bars.rows)))
    low = ROW * len(bars.rows)
    marks = "".join(
        f'<path class="grid" d="M{axis.at(value)} 0V{low}"/>'
        f'<text x="{axis.at(value)}" y="{low + 16}" text-anchor="middle">{value:g}</text>'
        for value in round_values(0.0, most)
    )
    centre = (LABEL + WIDTH - RIGHT) / 2
    return (
        f"<section><h2>{escape(bars.title)}</h2><p>{escape(bars.about)}</p><ul>{names}</ul>\n"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(bars.title)}">'
        f"{_patterns(len(bars.parts))}{marks}{rows}"
        f'<text x="{centre}" y="{height - 8}" text-anchor="middle">{escape(bars.unit)}</text>'
        "</svg></section>\n"
    )


def _bar(bars: Bars, axis: _Axis, row: int) -> str:
    label, values = bars.rows[row]
    top = ROW * row + (ROW - BAR) / 2
    words = [
        f'<text x="{LABEL - 8}" y="{top + 12}" text-anchor="end">{escape(_shortened(label))}</text>'
    ]
    done = 0.0
    for at, value in enumerate(values):
        begin, end = axis.at(done), axis.at(done + value)
        done += value
        if end > begin:
            words.append(
                f'<rect x="{begin}" y="{top}" width="{round(end - begin, 1)}" height="{BAR}" '
                f'fill="{_fill(at)}" stroke="var(--c{at % 6})">'
                f"<title>{escape(label)}, {escape(bars.parts[at])}: {value:g}</title></rect>"
            )
    return "".join(words)


def _shortened(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _table(table: Table) -> str:
    heads = "".join(
        f"<th{_right(at >= table.words)}>{escape(name)}</th>"
        for at, name in enumerate(table.columns)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{_right(at >= table.words)}>{escape(cell)}</td>" for at, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f"<section><h2>{escape(table.title)}</h2><p>{escape(table.about)}</p>"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n{rows}</table></div>'
        "</section>\n"
    )


def _right(is_number: bool) -> str:
    return ' class="n"' if is_number else ""
