"""The page's own script: what the reader chooses, drawn by bokeh and circuitsvis from numbers that are in the page.

Text is only ever put into the page as text, into bokeh's columns, whose tooltips escape it, or as `safe_token` made it.
A figure that cannot be drawn leaves a sentence in its place, and the rest goes on.
"""

from __future__ import annotations

from analyses.views.assets import inline_script

__all__ = ["REPORT_SCRIPT"]

REPORT_SCRIPT = inline_script(
    r"""
(function () {
  "use strict";
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

  function thinking(root) {
    var select = one(root, ".rp-words-layer");
    if (!select) return;
    one(root, ".rp-controls").hidden = false;
    select.addEventListener("change", function () {
      all(root, ".rp-by-layer").forEach(function (part) { part.hidden = part.dataset.layer !== select.value; });
    });
  }

  // Draw a figure and hand over its models by name; where that fails, say so in its place.
  function embed(item, place, then) {
    function failed(error) {
      place.textContent = "This figure could not be drawn; the numbers are in the tables.";
      console.error("peaklens: a figure could not be drawn:", error);
    }
    try {
      window.Bokeh.embed.embed_item(item, place.id).then(function (views) {
        var root = Array.from(views)[0].model;
        then(function (name) { return root.document.get_model_by_name(name); }, root);
      }).catch(failed);
    } catch (error) { failed(error); }
  }

  // One response at a time
  function explore(box) {
    var section = box.parentElement, run = Number(box.dataset.run);
    var template = read(one(section, ".rp-template")), layers = template.layers;
    var stored = all(section, ".rp-response"), responses = [];
    var pick = one(box, ".rp-pick"), layerPick = one(box, ".rp-layer"), slider = one(box, ".rp-step");
    var before = one(box, ".rp-before"), after = one(box, ".rp-after"), scale = one(box, ".rp-scale");
    var models = null, ImageArray = null, cursors = [], response = null, row = 0, drawn = 0;

    function load(k) {
      if (!responses[k]) {
        var data = read(stored[k]), raw = window.atob(data.mi), view = new DataView(new ArrayBuffer(raw.length));
        for (var i = 0; i < raw.length; i++) view.setUint8(i, raw.charCodeAt(i));
        data.rows = layers.map(function () { return null; });
        data.inputs = [data.before].concat(data.tokens.slice(0, -1));
        data.places = data.tokens.map(function (token, t) {
          return "after `" + data.inputs[t] + "`, before `" + token + "`";
        });
        data.layers.forEach(function (place, own) {
          var steps = data.tokens.length, values = new Float64Array(steps);
          for (var t = 0; t < steps; t++) values[t] = view.getFloat32(4 * (own * steps + t), true);
          var isPeak = new Uint8Array(steps);
          data.peaks[own].forEach(function (step) { isPeak[step] = 1; });
          data.rows[place] = {values: values, peaks: data.peaks[own], isPeak: isPeak, limit: data.limits[own]};
        });
        responses[k] = data;
      }
      return responses[k];
    }
    function scored() { return response.rows[row]; }

    function facts() {
      var list = one(box, ".rp-facts");
      list.textContent = "";
      [["Response", response.name]].concat(response.facts).forEach(function (fact) {
        list.appendChild(make("dt", fact[0]));
        var value = make("dd", fact[1]);
        if (fact[0] === "Verdict") value.className = "rp-verdict rp-" + response.status.replace("_", "-");
        list.appendChild(value);
      });
    }
    // Shares of the way from the lowest to the highest value of a layer, equal values alike.
    function ranks(values) {
      var sorted = ordered(values), last = Math.max(1, sorted.length - 1), place = new Map();
      sorted.forEach(function (value, k) { place.set(value, [place.has(value) ? place.get(value)[0] : k, k]); });
      return Array.from(values, function (value) {
        return isFinite(value) ? (place.get(value)[0] + place.get(value)[1]) / 2 / last : NaN;
      });
    }
    function heatmap() {
      var steps = response.tokens.length, count = layers.length, cells = count * steps;
      var image = new Float64Array(cells), layer = new Array(cells), step = new Array(cells);
      var input = new Array(cells), token = new Array(cells), peak = new Array(cells), raw = new Array(cells);
      var ranked = scale.value === "rank";
      var dots = {x: [], y: []}, holes = {x: [], y: []}, low = Infinity, high = -Infinity;
      response.rows.forEach(function (scores, y) {
        var shades = scores && (ranked ? ranks(scores.values) : scores.values);
        for (var t = 0; t < steps; t++) {
          var at = y * steps + t, value = scores ? scores.values[t] : NaN;
          image[at] = scores ? shades[t] : NaN;
          raw[at] = value;
          layer[at] = layers[y];
          step[at] = t;
          input[at] = response.inputs[t];
          token[at] = response.tokens[t];
          peak[at] = scores && scores.isPeak[t] ? "yes" : "no";
          if (isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
          else { holes.x.push(t); holes.y.push(y); }
          if (peak[at] === "yes") { dots.x.push(t); dots.y.push(y); }
        }
      });
      if (ranked) { low = 0; high = 1; }
      if (!(low < high)) { low = isFinite(low) ? low - 0.5 : 0; high = low + 1; }
      models("bar").title = ranked ? "rank within the layer, from lowest to highest" : "nHSIC";
      models("colours").setv({low: low, high: high});
      models("cells").data = {
        image: [new ImageArray(image, [count, steps])], x: [-0.5], y: [-0.5], dw: [steps], dh: [count],
        layer: [layer], step: [step], input: [input], token: [token], value: [raw], peak: [peak]
      };
      models("undefined").data = holes;
      models("dots").data = dots;
      var range = models("steps"), margin = Math.max(0.5, steps / 100);
      range.setv({start: -margin, end: steps - 1 + margin, reset_start: -margin, reset_end: steps - 1 + margin});
    }
    function line() {
      var steps = response.tokens.length, scores = scored();
      var values = scores ? scores.values : new Float64Array(steps).fill(NaN), at = [];
      for (var t = 0; t < steps; t++) at.push(t);
      models("line").data = {
        step: at, value: Array.from(values), input: response.inputs, token: response.tokens,
        peak: at.map(function (t) { return scores && scores.isPeak[t] ? "yes" : "no"; })
      };
      var peaks = scores ? scores.peaks : [];
      models("peaks").data = {step: peaks, value: peaks.map(function (t) { return values[t]; })};
      var limited = scores && scores.limit !== null;
      models("limit").data = limited ?
        {step: [0, steps - 1], value: [scores.limit, scores.limit]} : {step: [], value: []};
      fit(models("height"), ordered(values).concat(limited ? [scores.limit] : []));
      models("row").data = {x: [(steps - 1) / 2], y: [row], width: [steps]};
    }
    function caption() {
      var scores = scored(), name = "layer " + layers[row], finite = scores ? ordered(scores.values) : [];
      var length = several(response.tokens.length, "step");
      var text = "nHSIC of " + response.name + " at " + name + " over " + length + ": ";
      if (!scores) text += "this layer was not scored.";
      else if (!finite.length) text += "no step has a score.";
      else {
        text += "from " + number(finite[0]) + " to " + number(finite[finite.length - 1]) + ", median " +
          number(quantile(finite, 0.5)) + "; " + several(scores.peaks.length, "peak") + ", ringed" +
          (scores.limit === null ? "" : ", above the dashed line at " + number(scores.limit)) + ". ";
        if (finite.length < scores.values.length)
          text += several(scores.values.length - finite.length, "step") + " without a score, hatched below. ";
        text += "Below: all layers, yellow is high" + (scale.value === "rank" ? " within its layer" : "") +
          ", dots are peaks; the frame is " + name + ", the line the step chosen. Tap a cell to choose it.";
      }
      one(box, "figcaption").textContent = text;
    }
    function text() {
      var place = one(box, ".rp-text"), scores = scored(), id = "r" + run + "-text-" + drawn++;
      place.textContent = "";
      place.classList.toggle("rp-gaps", !response.spaced);
      if (!scores) { place.textContent = "Layer " + layers[row] + " was not scored for this response."; return; }
      var finite = ordered(scores.values), holes = [];
      var values = Array.from(scores.values, function (value, t) {
        if (isFinite(value)) return Number(value.toPrecision(4));
        holes.push(t);
        return "NaN";
      });
      var figure = make("figure", undefined, "pl-view"), live = make("div", undefined, "pl-live");
      figure.id = id;
      figure.setAttribute("aria-label", "The response, coloured by nHSIC of layer " + layers[row]);
      live.hidden = true;
      figure.appendChild(live);
      figure.appendChild(make("div", response.safe.join(response.spaced ? "" : " "), "pl-static"));
      figure.appendChild(make("figcaption", "White is 0, blue is high" +
        (finite.length ? " (up to " + number(finite[finite.length - 1]) + ")" : "") + "; outlined and underlined: " +
        several(scores.peaks.length, "peak") + " of layer " + layers[row] +
        (holes.length ? "; hatched: no score" : "") + ". Click a token to choose its step.", "pl-alt"));
      var data = make("script");
      data.type = "application/json";
      data.textContent = JSON.stringify({
        needs: "circuitsvis", component: "ColoredTokens", choose: "Coloured by", start: 0,
        places: response.places, props: Object.assign({tokens: response.safe}, template.colours),
        series: [{label: "layer " + layers[row], marks: scores.peaks, undefined: holes, props: {
          values: values, minValue: Math.min(finite.length ? finite[0] : 0, -1e-12),
          maxValue: Math.max(finite.length ? finite[finite.length - 1] : 0, 1e-12)
        }}]
      });
      figure.appendChild(data);
      place.appendChild(figure);
      window.peaklensShow1(id);
    }
    function peaks() {
      var place = one(box, ".rp-peaks"), scores = scored(), found = scores ? scores.peaks : [];
      place.textContent = "";
      place.appendChild(make("span", "Peaks of layer " + layers[row] + (found.length ? ":" : ": none")));
      found.slice(0, 80).forEach(function (step) {
        var button = make("button", step + " " + response.places[step]);
        button.type = "button";
        button.title = "nHSIC " + number(scores.values[step]);
        button.addEventListener("click", function () { stepTo(step); });
        place.appendChild(button);
      });
      if (found.length > 80) place.appendChild(make("span", "and " + (found.length - 80) + " more"));
    }
    function stepTo(step) {
      var last = response.tokens.length - 1, scores = scored();
      step = Math.min(Math.max(step, 0), last);
      slider.max = last;
      slider.value = step;
      var value = scores ? scores.values[step] : NaN, isPeak = scores && scores.isPeak[step];
      var told = "Step " + step + " of 0 to " + last + ", " + response.places[step] + ": nHSIC " +
        number(value) + " at layer " + layers[row] + (isPeak ? ", a peak" : "");
      one(box, ".rp-at").textContent = told;
      slider.setAttribute("aria-valuetext", told);
      if (models) cursors.forEach(function (cursor) { cursor.location = step; });
      var style = one(box, ".rp-cursor") || box.appendChild(make("style", undefined, "rp-cursor"));
      style.textContent = "#" + box.id + " .colored-tokens>span:nth-of-type(" + (step + 1) +
        ")>span{box-shadow:0 0 0 5px #c2185b;position:relative;z-index:2}";
    }
    function nextPeak(direction) {
      var now = Number(slider.value), found = scored() ? scored().peaks : [];
      var ahead = found.filter(function (step) { return direction > 0 ? step > now : step < now; });
      if (ahead.length) stepTo(direction > 0 ? ahead[0] : ahead[ahead.length - 1]);
    }
    function showLayer() {
      row = Math.max(0, layers.indexOf(Number(layerPick.value)));
      if (models) line();
      caption();
      text();
      peaks();
      stepTo(Number(slider.value));
    }
    function choose(k) {
      response = load(k);
      pick.value = String(k);
      before.disabled = k === 0;
      after.disabled = k === stored.length - 1;
      all(section, ".rp-open").forEach(function (button) {
        button.closest("tr").classList.toggle("rp-chosen", Number(button.dataset.open) === k);
      });
      facts();
      slider.value = 0;
      if (models) heatmap();
      showLayer();
      var found = scored() ? scored().peaks : [];
      stepTo(found.length ? found[0] : 0);
    }
    pick.addEventListener("change", function () { choose(Number(pick.value)); });
    layerPick.addEventListener("change", showLayer);
    scale.addEventListener("change", function () { if (models) heatmap(); caption(); });
    before.addEventListener("click", function () { choose(Math.max(0, Number(pick.value) - 1)); });
    after.addEventListener("click", function () { choose(Math.min(stored.length - 1, Number(pick.value) + 1)); });
    slider.addEventListener("input", function () { stepTo(Number(slider.value)); });
    one(box, ".rp-peak-before").addEventListener("click", function () { nextPeak(-1); });
    one(box, ".rp-peak-after").addEventListener("click", function () { nextPeak(1); });
    one(box, ".rp-text").addEventListener("click", function (event) {
      var tokens = event.target.closest(".colored-tokens"), node = event.target;
      if (!tokens || node === tokens) return;
      while (node.parentElement !== tokens) node = node.parentElement;
      var place = all(tokens, ":scope > span").indexOf(node);
      if (place >= 0) stepTo(place);
    });
    document.addEventListener("peaklens-tap", function (event) {
      if (event.detail.run !== run) return;
      var y = event.detail.y === null ? row : Math.round(event.detail.y);
      if (y !== row && y >= 0 && y < layers.length) { layerPick.value = String(layers[y]); showLayer(); }
      stepTo(Math.round(event.detail.x));
    });
    all(section, ".rp-open").forEach(function (button) {
      button.addEventListener("click", function () {
        choose(Number(button.dataset.open));
        box.scrollIntoView({block: "start"});
        pick.focus({preventScroll: true});
      });
    });
    box.hidden = false;
    choose(0);
    embed(template.item, one(box, ".rp-plot"), function (get, root) {
      models = get;
      ImageArray = get("cells").data.image[0].constructor;
      cursors = Array.from(root.document._all_models.values()).filter(function (model) {
        return model.tags && model.tags.indexOf("cursor") >= 0;
      });
      heatmap();
      line();
      stepTo(Number(slider.value));
    });
  }

  // Right against wrong
  function compare(box) {
    var data = read(one(box, ".rp-group-data")), measure = one(box, ".rp-measure"), layer = one(box, ".rp-group-layer");
    var models = null;
    function show() {
      var values = data.values[measure.value][Number(layer.value)], name = data.measures[measure.value];
      var parts = [], medians = {x0: [], x1: [], y: []};
      data.groups.forEach(function (group, k) {
        var own = ordered(values.filter(function (value, i) { return data.of[i] === k && value !== null; }));
        if (!own.length) { parts.push(group + ": no values"); return; }
        var middle = quantile(own, 0.5);
        medians.x0.push(k - 0.32);
        medians.x1.push(k + 0.32);
        medians.y.push(middle);
        parts.push(group + " (n = " + own.length + "): median " + number(middle) + ", from " + number(own[0]) + " to " +
          number(own[own.length - 1]));
      });
      one(box, "figcaption").textContent = name[0].toUpperCase() + name.slice(1) + ", layer " +
        data.layers[Number(layer.value)] + ". " + parts.join("; ") + ". A dot is a response, a bar the median.";
      if (!models) return;
      // The same place for the same response in every figure: side by side, by the golden ratio.
      models("groups").data = {
        x: data.of.map(function (k, i) { return k + 0.5 * ((i * 0.618034) % 1 - 0.5); }),
        y: values.map(function (value) { return value === null ? NaN : value; }),
        name: data.names, steps: data.steps,
        group: data.of.map(function (k) { return data.groups[k]; }),
        colour: data.of.map(function (k) { return data.colours[k]; })
      };
      models("medians").data = medians;
      fit(models("height"), values.filter(function (value) { return value !== null; }));
      models("figure").left[0].axis_label = name.split(" (")[0];
    }
    measure.addEventListener("change", show);
    layer.addEventListener("change", show);
    box.hidden = false;
    show();
    embed(data.item, one(box, ".rp-plot"), function (get) { models = get; show(); });
  }

  all(document, "table.rp-sort").forEach(sortable);
  all(document, ".rp-thinking").forEach(thinking);
  // One after the other, so that the page can be read while it is drawn.
  all(document, ".rp-explorer, .rp-groups").forEach(function (box, k) {
    window.setTimeout(function () { (box.classList.contains("rp-explorer") ? explore : compare)(box); }, 20 * k);
  });
})();
"""
)
