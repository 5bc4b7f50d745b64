"""Plots as SVG: bars that lie, each with the least and the greatest of its runs."""
import statistics
from xml.sax.saxutils import escape

COLOURS = {"engine": "#2f6fde", "kernel": "#8a8f98", "other": "#2aa198", "bare": "#d0d4da"}


def bars(path, title, rows):
    """`rows`: label, kind of colour, median, least, greatest"""
    left, right, height, step = 330, 90, 60 + 26 * len(rows), 26
    width = 860
    top = max(greatest for *_, greatest in rows) or 1
    x = lambda value: left + value / top * (width - left - right)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">' % (width, height),
           '<rect width="100%" height="100%" fill="#fff"/>', '<text x="10" y="22" font-size="14">%s</text>' % escape(title)]
    for number, (label, kind, median, least, greatest) in enumerate(rows):
        y = 40 + number * step
        out.append('<text x="%d" y="%d" text-anchor="end">%s</text>' % (left - 8, y + 14, escape(label)))
        out.append('<rect x="%d" y="%d" width="%.1f" height="18" fill="%s"/>' % (left, y, x(median) - left, COLOURS[kind]))
        out.append('<path d="M%.1f %d V%d M%.1f %d H%.1f M%.1f %d V%d" stroke="#333" fill="none"/>' % (
            x(least), y + 5, y + 13, x(least), y + 9, x(greatest), x(greatest), y + 5, y + 13))
        out.append('<text x="%.1f" y="%d">%s</text>' % (x(greatest) + 6, y + 14, number_text(median)))
    out.append("</svg>")
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n")


def number_text(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def spread(values):
    """the median, the least and the greatest, as text"""
    return [number_text(x) for x in (statistics.median(values), min(values), max(values))]
