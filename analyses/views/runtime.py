"""Style and script of the views: how the static form of a figure gives way to the one that a library draws.

1. The script waits for the library, by its global or by the event that its bundle ends on.
2. It draws into the live box; as soon as something stands there the static form is hidden, and it comes back if drawing
   fails.
3. What a library draws for the mouse alone is made reachable by keyboard: a list to choose a series from, buttons for
   attention heads.
"""

from __future__ import annotations

from analyses.views.assets import inline_script

__all__ = ["RUNTIME", "VIEW_STYLE"]

VIEW_STYLE = (
    "<style>"
    ".pl-view{margin:.8em 0;padding:0;font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:100%}"
    ".pl-title{font-weight:600;font-size:15px;line-height:1.4;margin:0 0 .3em;overflow-wrap:anywhere}"
    ".pl-alt{font-size:12.5px;line-height:1.5;margin:.3em 0 0;overflow-wrap:anywhere}"
    # The libraries draw dark on light: they get light paper in any theme.
    ".pl-live{background:#fff;color:#1b1f24;color-scheme:light;border:1px solid rgba(128,128,128,.3);border-radius:6px;"
    "padding:8px;overflow-x:auto;max-width:100%;box-sizing:border-box;position:relative}"
    ".pl-live[hidden],.pl-static[hidden]{display:none}"
    ".pl-live h2,.pl-live h3,.pl-live h4{font-size:13px;line-height:1.4;margin:.2em 0;font-weight:600}"
    ".pl-live h4{font-size:11px;line-height:1.2}.pl-live h2[style],.pl-live h4[style]{background:#1b1f24!important}"
    ".pl-live .colored-tokens{line-height:1.9;overflow-wrap:anywhere;padding-bottom:2px!important;font-family:"
    "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px}"
    # The library's tooltip tells token and value; where the step stands in the text comes below, set on hovering.
    ".pl-live .colored-tokens>div::after{content:var(--pl-place,'');display:block;font-weight:400}"
    ".pl-live .colored-tokens>span>span{max-width:100%;unicode-bidi:isolate;white-space:normal}"
    # The large attention chart takes its width from its own canvas, and can fall to nothing when a window changes.
    ".pl-live [style*='aspect-ratio']{width:100%!important}"
    ".pl-note{font-size:12.5px;line-height:1.5;color:#333;margin-top:4px}"
    ".pl-live select,.pl-live label{font-size:14px}"
    ".pl-live select{margin:0 0 6px 6px;padding:3px 6px;max-width:100%}"
    ".pl-live [tabindex]:focus-visible,.pl-live select:focus-visible{outline:3px solid #0b57d0;outline-offset:1px}"
    "</style>"
)

# Marks and hatching of circuitsvis tokens are rules by position: the library itself knows colours alone.
RUNTIME = inline_script(
    """
window.peaklensShow1 = window.peaklensShow1 || function (id) {
  "use strict";
  var root = document.getElementById(id);
  if (!root) return;
  var live = root.querySelector(".pl-live"), fixed = root.querySelector(".pl-static");
  var data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  var globals = {circuitsvis: "CircuitsVis", bokeh: "Bokeh"};
  function rules(box, marks, undefinedSteps) {
    function at(steps, look) {
      return steps.map(function (n) {
        return "#" + box.id + " .colored-tokens>span:nth-of-type(" + (n + 1) + ")>span";
      }).join(",") + (steps.length ? "{" + look + "}" : "");
    }
    var style = document.createElement("style");
    style.textContent =
      (data.gap ? "#" + box.id + " .colored-tokens>span{margin-right:.5em}" : "") +
      at(marks, "position:relative;z-index:1;outline:2px solid #000;font-weight:700;" +
        "text-decoration:underline double;text-underline-offset:3px") +
      at(undefinedSteps, "background:repeating-linear-gradient(45deg,#c9c9c9 0 2px,#ededed 2px 6px)!important;" +
        "color:#000!important");
    box.appendChild(style);
  }
  function note(box, text) {
    if (!text) return;
    var line = document.createElement("div");
    line.className = "pl-note";
    line.textContent = text;
    box.appendChild(line);
  }
  function reachable() {
    // Headings of a library are none of the page's, and what it paints has the name of the view.
    live.querySelectorAll("h2,h3,h4").forEach(function (name) { name.setAttribute("role", "presentation"); });
    live.querySelectorAll("canvas:not([aria-label])").forEach(function (canvas) {
      canvas.setAttribute("aria-label", root.getAttribute("aria-label"));
    });
    live.querySelectorAll("h4").forEach(function (name) {
      var button = name.parentElement.parentElement;
      if (button.tabIndex === 0) return;
      button.tabIndex = 0;
      button.setAttribute("role", "button");
      button.setAttribute("aria-label", "show " + name.textContent);
      button.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); }
      });
    });
  }
  // Before which token and after which one the pointer is.
  function placed(event) {
    var tokens = event.target.closest(".colored-tokens"), node = event.target;
    if (!tokens || node === tokens) return;
    while (node.parentElement !== tokens) node = node.parentElement;
    var at = Array.prototype.indexOf.call(tokens.querySelectorAll(":scope > span"), node);
    if (at >= 0) tokens.style.setProperty("--pl-place", JSON.stringify(data.places[at]));
  }
  function circuitsvis() {
    var boxes = [];
    function show(k) {
      if (!boxes[k]) {
        var box = document.createElement("div"), series = data.series[k];
        box.id = id + "-" + k;
        live.appendChild(box);
        rules(box, series.marks || [], series.undefined || []);
        var target = document.createElement("div");
        target.id = box.id + "-draw";
        box.appendChild(target);
        window.CircuitsVis.render(target.id, window.CircuitsVis[data.component],
          Object.assign({}, data.props, series.props));
        if (data.places) target.addEventListener("mouseover", placed);
        note(box, series.note);
        boxes[k] = box;
      }
      boxes.forEach(function (box, i) { box.hidden = i !== k; });
    }
    if (data.series.length > 1) {
      var label = document.createElement("label"), select = document.createElement("select");
      label.textContent = data.choose;
      data.series.forEach(function (series, k) {
        var option = document.createElement("option");
        option.textContent = series.label;
        option.value = k;
        select.appendChild(option);
      });
      select.value = data.start;
      select.addEventListener("change", function () { show(Number(select.value)); });
      label.appendChild(select);
      live.appendChild(label);
    }
    show(data.start);
  }
  function draw() {
    if (root.dataset.drawn) return;
    root.dataset.drawn = "1";
    live.hidden = false;
    // The static form goes when there is something in its place, and comes back if that is taken away.
    new MutationObserver(function () {
      var there = live.querySelector("canvas,.colored-tokens,.bk-Figure,[class*=bk-]") !== null;
      fixed.hidden = there;
      reachable();
    }).observe(live, {childList: true, subtree: true});
    try {
      if (data.needs === "bokeh") {
        var target = document.createElement("div");
        target.id = id + "-draw";
        live.appendChild(target);
        note(live, data.note);
        window.Bokeh.embed.embed_item(data.item, target.id).catch(failed);
      } else {
        circuitsvis();
      }
    } catch (error) { failed(error); }
  }
  function failed(error) {
    live.hidden = true;
    fixed.hidden = false;
    console.error("peaklens: the static form is shown, since drawing failed:", error);
  }
  if (window[globals[data.needs]]) draw();
  else document.addEventListener("peaklens-" + data.needs, draw, {once: true});
};
"""
)
