"""Load over HTTP only, so that it measures other servers too. `python -m triptych_client.bench` runs it."""

from triptych_client.bench.dialects import Dialect, openai_completions, tgi
from triptych_client.bench.load import FillRecord, Measurement, Plan, StreamRecord, measure
from triptych_client.bench.report import Report, Spread, percentile, summarize, table

__all__ = [
    "Dialect",
    "FillRecord",
    "Measurement",
    "Plan",
    "Report",
    "Spread",
    "StreamRecord",
    "measure",
    "openai_completions",
    "percentile",
    "summarize",
    "table",
    "tgi",
]
