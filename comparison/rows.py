"""The rows of the comparison's CSV files: their columns, and how tables group and read them."""

# column -> heading, digits
SCORES = {
    "fid": ("FID (the run's extractor)", 2),
    "fid_second": ("FID by `second`", 2),
    "fid_pixels": ("FID by `pixels`", 3),
    "kid": ("KID", 3),
    "kid_second": ("KID by `second`", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "is_mean": ("IS", 2),
}
# the judges whose differences are tested: column -> a short heading
JUDGES = {"fid": "run's extractor", "fid_second": "`second`", "fid_pixels": "`pixels`"}
JUDGED_BY = tuple(JUDGES)
UNTUNED = JUDGED_BY[1:]  # what a gain needs
REGIMES = {"True": "with clipping", "False": "without clipping"}


def headline(scores: list[dict], clip: str) -> list[dict]:
    """The rows of one regime that were measured on the most images."""
    most = max((int(row["n"]) for row in scores), default=0)
    return [row for row in scores if row["clip"] == clip and int(row["n"]) == most]


def by_method(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by method, in the file's order."""
    return {method: of_method for (method,), of_method in grouped(rows, "method").items()}


def grouped(rows: list[dict], *columns: str) -> dict[tuple[str, ...], list[dict]]:
    """Rows by what some columns hold, in the file's order."""
    groups: dict[tuple[str, ...], list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return groups


def numbers(rows: list[dict], column: str, unit: float = 1) -> list[float]:
    return [float(row[column]) / unit for row in rows if row.get(column)]
