"""Load over HTTP only, so that it measures other servers too. `python -m triptych_client.bench` runs it.

From a program:

    dialect = await find_dialect(url)                      # or tgi(), openai_completions("name"), …
    measured = await measure(Plan(url=url, dialect=dialect, streams=32, requests=64))
    report = summarize(measured, Slo(ttft=500, itl=100))
    print(table(report), as_json(report))
"""

from triptych_client.bench.dialects import (
    APIS,
    Dialect,
    Question,
    openai_chat,
    openai_completions,
    openai_embeddings,
    tei_embed,
    tei_rerank,
    tgi,
    tgi_whole,
)
from triptych_client.bench.discovery import FAMILIES, find_dialect
from triptych_client.bench.load import measure
from triptych_client.bench.plan import Failure, FillRecord, Measurement, Plan, RequestRecord, Tally
from triptych_client.bench.plot import PlotUnavailable, plot
from triptych_client.bench.prompts import Prompt, read_prompts
from triptych_client.bench.report import FailureCount, Report, Spread, as_json, percentile, summarize
from triptych_client.bench.slo import Goodput, Slo
from triptych_client.bench.table import table

__all__ = [
    "APIS",
    "FAMILIES",
    "Dialect",
    "Failure",
    "FailureCount",
    "FillRecord",
    "Goodput",
    "Measurement",
    "Plan",
    "PlotUnavailable",
    "Prompt",
    "Question",
    "Report",
    "RequestRecord",
    "Slo",
    "Spread",
    "Tally",
    "as_json",
    "find_dialect",
    "measure",
    "openai_chat",
    "openai_completions",
    "openai_embeddings",
    "percentile",
    "plot",
    "read_prompts",
    "summarize",
    "table",
    "tei_embed",
    "tei_rerank",
    "tgi",
    "tgi_whole",
]
