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


def separation_tables(result: dict[str, Any], published: dict[str, float]) -> list[Any]:
    """What was measured of separations, beside what was ``published``."""
    quality = (
        [quality_table(result, f"all {result['k'] * result['mixtures']} components")] if "quality" in result else []
    )
    places = [
        f"every component in its own place, {name}: {', '.join(f'{share:.0%} {how}' for how, share in shares.items())} "
        "of the mixtures"
        for name, shares in result.get("assigned", {}).items()
    ]
    return [_psnr_table(result, published), *quality, *places]


def _psnr_table(result: dict[str, Any], published: dict[str, float]) -> Table:
    title = f"{result['mixtures']} mixtures of {result['k']} {result['data']} test pictures, {result['protocol']}"
    table = Table("", "mean PSNR", "median", "over 25 dB", title=title, title_justify="left")
    for name, stats in (
        ("average (ours)", result["average"]),
        (f"{', '.join(result['prior'])} (ours)", result["psnr"]),
        ("after the last correction", result["psnr_corrected"]),
    ):
        table.add_row(name, f"{_with_error(stats)} dB", f"{stats['median']:.2f}", f"{stats['share_above_25_db']:.0%}")
    if "ms_vae" in result:
        psnr, ssim = (_with_error(result["ms_vae"][name]) for name in ("psnr", "ssim"))
        table.add_row("matched by SSIM (ms-vae)", f"{psnr} dB", f"SSIM {ssim}", "")
    for name, value in published.items():
        table.add_row(f"{name} (paper)", f"{value:.1f} dB", "", "", style="dim")
    table.caption = (
        f"{result['settings']['sampler']}, {result['evaluations']:.0f} evaluations, {result['seconds']:.0f} s; "
        f"residual {result['residual_8bit_rms']:.2f} of 255 levels"
    )
    return table


def _with_error(stats: dict[str, Any]) -> str:
    error = "" if stats["standard_error"] is None else f" ± {stats['standard_error']:.2f}"
    return f"{stats['mean']:.2f}{error}"
