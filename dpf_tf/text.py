"""Tables in plain text, as the reports print them."""

from __future__ import annotations


def table(
    rows: list[list[str]], rules: tuple[int, ...], last_left: bool = False
) -> list[str]:
    """Returns the lines of a table.

    Args:
        rows: cells, equally many in each row.
        rules: numbers of the rows above which a line is drawn.
        last_left: whether the last column is flush left, as the first one is.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        if number in rules:
            lines.append("  ".join("-" * width for width in widths))
        cells = [
            cell.ljust(width)
            if i == 0 or (last_left and i == len(row) - 1)
            else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
