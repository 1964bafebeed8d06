"""The two JavaScript libraries and how they get into a page: inline, each once, and nothing from the network.

- `bundle` is a library's own file as a script element that cannot end early.
- `data_script` is data as JSON in a script element, safe with any text.
- `missing` remembers what a notebook session was already given: the first view carries a library, later ones use it.

A library announces itself with an event when it is there, so that views drawn before it wait, and show their static
form until then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from interp.errors import InputError

__all__ = ["BUNDLES", "bundle", "data_script", "inline_script", "missing"]

# Each library and the global it makes.
BUNDLES = {"circuitsvis": "CircuitsVis", "bokeh": "Bokeh"}

_carried: set[str] = set()


@cache
def bundle(name: str) -> str:
    """The library as one script element, 1.3 MB each.

    >>> bundle("circuitsvis").count("</script")
    1
    """
    if name not in BUNDLES:
        raise InputError(
            "bundle", expected=" or ".join(BUNDLES), received=repr(name), remedy="Views name what they need in `needs`."
        )
    source = _circuitsvis() if name == "circuitsvis" else _bokeh()
    # Without the map's name no developer tool asks for it.
    source = re.sub(r"//# sourceMappingURL=\S+\s*$", "", source)
    announce = f'document.dispatchEvent(new Event("peaklens-{name}"));'
    return inline_script(f"{source}\n;{announce}")


def _circuitsvis() -> str:
    import circuitsvis

    return (Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")


def _bokeh() -> str:
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def inline_script(source: str) -> str:
    r"""A script element of JavaScript whose text holds nothing that HTML would take for the element's end.

    >>> inline_script('x = "</script>"')
    '<script>x = "<\\/script>"</script>'

    The sequences can only stand in strings and regular expressions, where the escapes mean the same.
    """
    guarded = re.sub(r"<(?=/script)", r"<\\", source, flags=re.IGNORECASE).replace("<!--", r"\x3c!--")
    return f"<script>{guarded}</script>"


def data_script(data: Any) -> str:
    """JSON for `JSON.parse` in a script element that the browser does not run; NaN is not JSON and is refused.

    >>> data_script({"token": "</script>"})
    '<script type="application/json">{"token":"\\\\u003c/script\\\\u003e"}</script>'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json">{text}</script>'


def missing(needs: Iterable[str]) -> list[str]:
    """Those of the libraries that no view of this session has carried; from now on they count as carried."""
    new = [name for name in BUNDLES if name in set(needs) - _carried]
    _carried.update(new)
    return new
