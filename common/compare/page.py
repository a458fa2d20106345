"""A comparison as one HTML file: tables and pictures inside it, no script, nothing to load."""

import base64
import io
from html import escape
from pathlib import Path

from common.compare.figures import Picture
from common.compare.text import Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 110em; margin: 0 auto; padding: 1em;
       color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.6em 0 .4em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child { position: sticky; left: 0; background: #fff; text-align: left }
img { max-width: 100%; min-width: min(100%, 20em) } figure { margin: 0 }
p, li { font-size: .85em; color: #555; white-space: pre-line }
@media (max-width: 40em) { .wide img { max-width: none; width: 50em } }
"""


def page(title: str, tables: list[Table], pictures: list[Picture], notes: list[str]) -> str:
    """The page's text."""
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [html_table(table) for table in tables]
    parts += [html_picture(picture) for picture in pictures]
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f"<h2>Left out</h2><ul>{items}</ul>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def html_table(table: Table) -> str:
    """A table that scrolls sideways where it is wider than the page."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in table.rows
    )
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<h2>{escape(table.title.capitalize())}</h2><div class="wide"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def html_picture(picture: Picture) -> str:
    """A picture with its bytes in the page."""
    content = base64.b64encode(small_png(picture.path)).decode()
    title = escape(picture.title)
    return (
        f'<h2>{title}</h2><figure class="wide">'
        f'<img alt="{title}" src="data:image/png;base64,{content}"></figure>'
    )


def small_png(path: Path) -> bytes:
    """A picture in 64 colours, which is a third of its size and looks the same."""
    from PIL import Image  # comes with matplotlib; only needed here

    content = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(content, "PNG", optimize=True)
    return content.getvalue()
