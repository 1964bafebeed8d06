"""The page's own script: what the reader chooses, drawn from numbers that are in the page; bokeh draws the figures.

1. The first screen shows a response, a layer and a step (`script_explore`), and what is known of that place
   (`script_cell`); they stand in the address of the page.
2. It tells its section which layer is chosen, and the rest of the section follows (`script_layers`).

Text is only ever put into the page as text, or into bokeh's columns, whose tooltips escape it. A figure that cannot be
drawn leaves a sentence in its place, and the rest goes on.
"""

from __future__ import annotations

from analyses.report.script_basics import BASICS
from analyses.report.script_cell import CELL
from analyses.report.script_explore import EXPLORE
from analyses.report.script_layers import LAYERS
from analyses.views.assets import inline_script

__all__ = ["REPORT_SCRIPT"]

_START = r"""
  var latest = 0;  // the run whose first screen was used last: arrow keys outside of any are its
  all(document, "table.rp-sort").forEach(sortable);
  // One after the other, so that the page can be read while it is drawn.
  all(document, ".rp-explorer").forEach(function (box, k) {
    window.setTimeout(function () {
      var draw = follow(box.parentElement);
      explore(box);
      draw();
    }, 20 * k);
  });
"""

REPORT_SCRIPT = inline_script(
    '(function () {\n  "use strict";\n' + "".join((BASICS, CELL, LAYERS, EXPLORE, _START)) + "})();"
)
