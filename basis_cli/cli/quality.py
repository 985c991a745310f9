"""The tables of ``basis evaluate`` that say how good answers are."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def quality_table(result: dict[str, Any], title: str) -> Table:
    """Of the ``quality`` of several answers, a row each, and how they were made."""
    rows = result["quality"]
    names = [name for name in rows[next(iter(rows))] if not name.endswith(("_error", "-std"))]
    columns = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
    table = Table("", *(columns.get(name, name) for name in names), title=title, title_justify="left")
    for row, found in rows.items():
        cells = [f"{found[name]:.{3 if name == 'ssim' else 2}f}" if name in found else "" for name in names]
        if "psnr" in found:
            cells[names.index("psnr")] += f" ± {found['psnr_standard_error']:.2f}"
        table.add_row(row, *cells)
    off = f"; residual {result['residual_8bit_rms']:.2f} of 255 levels" if "residual_8bit_rms" in result else ""
    by = result["settings"].get("sampler") or result["settings"].get("model")
    table.caption = "\n".join([f"{by}, {result['seconds']:.0f} s{off}", *result.get("caveats", [])])
    return table


def best_table(found: dict[str, dict[str, float]], samples: int) -> Table:
    """Of the error of one and of the best of several samples."""
    table = Table("", "RMS x 100", "MSE x 1000", title=f"error of {samples} samples", title_justify="left")
    for row in ("baseline", "one", "best value", "best picture"):
        rms, error, mse = (found[row][name] for name in ("rms", "standard_error", "mse"))
        table.add_row(row, f"{100 * rms:.2f} ± {100 * error:.2f}", f"{1000 * mse:.2f}")
    table.caption = f"variance over the samples: {10_000 * found['variance']['mean']:.1f} / 10,000"
    return table


def diversity_table(found: dict[str, dict[str, float]], samples: int) -> Table:
    """Of the variety of the samples and their distances in features."""
    table = Table("", "mean", "standard error", title=f"variety of {samples} samples", title_justify="left")
    for name, row in found.items():
        table.add_row(name, *(f"{row[figure]:.3g}" for figure in ("mean", "standard_error")))
    table.caption = (
        "FWV: faithfulness-weighted variance by bandwidth, on EfficientNet-Lite0's features; higher is better"
    )
    return table
