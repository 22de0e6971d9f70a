"""Move sales-pipeline data from Tableau and CRMs into workbooks, with the metrics computed on the way."""

__version__ = "0.1.0"
