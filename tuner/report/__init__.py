"""A plan as text for people and as JSON for programs."""

from tuner.report.advice import advice_lines
from tuner.report.json import error_json, report_json
from tuner.report.text import overview_text, report_text

__all__ = ["advice_lines", "error_json", "overview_text", "report_json", "report_text"]
