"""A plan as text for people and as JSON for programs."""

from tuner.report.advice import advice_lines
from tuner.report.json import error_json, report_json
from tuner.report.overview import overview_text
from tuner.report.ranking import ranked
from tuner.report.text import report_parts, report_text

__all__ = [
    "advice_lines", "error_json", "overview_text", "ranked", "report_json", "report_parts",
    "report_text",
]  # fmt: skip
