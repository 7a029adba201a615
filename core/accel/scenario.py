"""MLPerf's words for how a model is asked. A file of its own: a recipe names them, and reading one loads no report."""

from __future__ import annotations

from typing import Literal

Scenario = Literal["single_stream", "multi_stream", "offline", "server"]
