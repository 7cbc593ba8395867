"""Draw the plots of the report from the result files."""

from itera_lite.report.plots import plot_all_metrics

__all__ = ["plot_all_metrics"]
