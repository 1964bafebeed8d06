"""What the parts of the page's script share: elements, numbers, tables that sort, figures and their colours."""

from __future__ import annotations

__all__ = ["BASICS"]

BASICS = r"""
  function one(root, selector) { return root.querySelector(selector); }
  function all(root, selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); }
  function read(box) { return JSON.parse(one(box, 'script[type="application/json"]').textContent); }
  function make(tag, text, className) {
    var element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  function number(value) {
    return value === null || !isFinite(value) ? "NaN" : String(Number(value.toPrecision(4)) + 0);
  }
  function several(count, thing) { return count + " " + thing + (count === 1 ? "" : "s"); }
  function quantile(sorted, share) {
    var place = share * (sorted.length - 1), below = Math.floor(place), above = Math.ceil(place);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }
  function ordered(values) {
    return Array.prototype.filter.call(values, isFinite).sort(function (a, b) { return a - b; });
  }

  // A range about values, with a margin; the value 0 to 1 where there are none.
  function fit(range, values) {
    var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
    if (!values.length) { low = 0; high = 1; }
    var margin = 0.06 * (high - low) || Math.abs(high) / 10 || 0.5;
    var ends = {start: low - margin, end: high + margin};
    range.setv({start: ends.start, end: ends.end, reset_start: ends.start, reset_end: ends.end});
  }

  // Tables: a button in each heading; numbers by their exact value, what is undefined last.
  function sortable(table) {
    var heads = all(table, "thead th"), body = one(table, "tbody");
    heads.forEach(function (head, k) {
      var button = make("button", head.textContent), numeric = head.classList.contains("pl-n");
      button.type = "button";
      if (head.title) button.title = head.title;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort"), up = now ? now === "descending" : !numeric;
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        function key(row) {
          var cell = row.children[k];
          if (!cell.hasAttribute("data-v")) return cell.textContent.trim();
          return cell.dataset.v === "" ? null : Number(cell.dataset.v);
        }
        all(body, "tr").map(function (row) { return [key(row), row]; }).sort(function (a, b) {
          if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null);
          var order = typeof a[0] === "number" ? a[0] - b[0] : a[0].localeCompare(b[0], undefined, {numeric: true});
          return up ? order : -order;
        }).forEach(function (pair) { body.appendChild(pair[1]); });
      });
    });
  }


  // Numbers of a base64 text.
  function unpacked(text, bytes, get) {
    var raw = window.atob(text), view = new DataView(new ArrayBuffer(raw.length)), found = [];
    for (var i = 0; i < raw.length; i++) view.setUint8(i, raw.charCodeAt(i));
    for (var at = 0; at < raw.length; at += bytes) found.push(view[get](at, true));
    return found;
  }

  // Draw a figure and hand over its models by name; where that fails, say so in its place.
  var drawn = [], dark = window.matchMedia("(prefers-color-scheme: dark)");
  function embed(item, place, then) {
    function failed(error) {
      place.textContent = "This figure could not be drawn; the numbers are in the tables.";
      console.error("peaklens: a figure could not be drawn:", error);
    }
    try {
      window.Bokeh.embed.embed_item(item, place.id).then(function (views) {
        var root = Array.from(views)[0].model;
        drawn.push(root.document);
        paint(root.document);
        then(function (name) { return root.document.get_model_by_name(name); }, root);
      }).catch(failed);
    } catch (error) { failed(error); }
  }
  // Colours of light and dark paper stand in the tags of models.
  function paint(models) {
    Array.from(models._all_models.values()).forEach(function (model) {
      (model.tags || []).forEach(function (tag) {
        var parts = String(tag).split("|"), wanted = {};
        if (parts.length !== 3) return;
        wanted[parts[0]] = parts[dark.matches ? 2 : 1];
        model.setv(wanted);
      });
    });
  }
  dark.addEventListener("change", function () { drawn.forEach(paint); });
"""
