"""The tables of the sweep: how far one schedule's results range by its options alone."""

from scipy.stats import spearmanr

from common.tables import markdown
from studies.lr_schedules.paper import DECAYING, NAMES

NEAR = 1.25  # a KL within this factor of the constant rate's counts as equal


def moved(rows: list[dict]) -> list[dict]:
    """The runs of one set whose rate left the first one, and the constant: by falling mean rate."""
    first = max(row["lr_mean"] for row in rows)
    rows = [r for r in rows if r["lr_schedule"] == "constant" or r["lr_last"] < first]
    return sorted(rows, key=lambda row: -row["lr_mean"])


def by_set(sweep: list[dict]) -> dict[str, list[dict]]:
    names = sorted({row["set"] for row in sweep})
    return {name: [row for row in sweep if row["set"] == name] for name in names}


def of_the_sweep(sweep: list[dict]) -> str:
    """Rates over the first rate, loss and divergence of every run that decayed."""
    rows = []
    for name, of_set in by_set(sweep).items():
        first = max(row["lr_mean"] for row in of_set)
        for row in moved(of_set):
            mean, last = row["lr_mean"] / first, row["lr_last"] / first
            scores = [f"{row['loss']:.4f}", f"{row['kl']:.3f}"]
            rows.append([name, row["lr_schedule"], f"{mean:.3f}", f"{last:.1e}", *scores])
    return markdown(["set", "schedule", "mean rate", "last rate", "evaluation loss", "KL"], rows)


def of_the_sweeps_range(sweep: list[dict]) -> str:
    """How far one schedule's divergence ranges by its options, and what it goes along with."""
    columns = {}
    for name, of_set in by_set(sweep).items():
        rows = moved(of_set)
        kls, first = [row["kl"] for row in rows], max(row["lr_mean"] for row in rows)
        constant = next(row["kl"] for row in rows if row["lr_schedule"] == "constant")
        near = [row for row in rows if row["kl"] <= NEAR * constant]
        facts = {
            "steps of a run": f"{rows[0]['steps']:,}",
            "KL of the constant rate": f"{constant:.3f}",
        }
        for kind in DECAYING:
            of_kind = [row["kl"] for row in rows if row["lr_schedule"].startswith(kind)]
            span = f"{min(of_kind):.3f} to {max(of_kind):.3f}" if of_kind else "–"
            facts[f"KL of {NAMES[kind]}"] = span
        for key, label in (("lr_mean", "mean"), ("lr_last", "last")):
            correlation = spearmanr([row[key] for row in rows], kls).statistic
            facts[f"rank correlation of KL with the {label} rate"] = f"{correlation:.2f}"
        facts[f"runs within {NEAR - 1:.0%} of the constant rate's KL"] = (
            f"{len(near)} of {len(rows)}"
        )
        facts["least mean rate among these"] = f"{min(row['lr_mean'] for row in near) / first:.3f}"
        again = [f"{row['kl']:.3f}" for row in of_set if row not in rows]
        facts["KL of runs left out, whose rate never decayed"] = ", ".join(again) or "–"
        columns[name] = facts
    labels = next(iter(columns.values()))
    return markdown(["", *columns], [[x, *(c[x] for c in columns.values())] for x in labels])
