"""The first screen: what is drawn of the response, layer and step that are chosen."""

from __future__ import annotations

__all__ = ["EXPLORE"]

EXPLORE = r"""
  function explore(box) {
    var section = box.parentElement, run = Number(box.dataset.run), bar = document.getElementById("r" + run + "-bar");
    var template = read(one(section, ".rp-template")), layers = template.layers;
    var stored = all(section, ".rp-response"), responses = [];
    var names = stored.map(function (place) { return place.dataset.name; });
    var pick = one(bar, ".rp-pick"), layerPick = one(bar, ".rp-layer"), slider = one(bar, ".rp-step");
    var before = one(bar, ".rp-before"), after = one(bar, ".rp-after"), scale = one(box, ".rp-scale");
    var why = one(box, ".rp-why"), opened = why.textContent;
    var models = null, ImageArray = null, cursors = [], response = null, row = 0, spans = [], chosen = null;

    function load(k) {
      if (!responses[k]) {
        var data = read(stored[k]), steps = data.tokens.length, scores = unpacked(data.mi, 4, "getFloat32");
        data.rows = layers.map(function () { return null; });
        data.inputs = [data.before].concat(data.tokens.slice(0, -1));
        data.places = data.tokens.map(function (token, t) {
          return "after `" + data.inputs[t] + "`, before `" + token + "`";
        });
        data.layers.forEach(function (place, own) {
          var isPeak = new Uint8Array(steps), values = Float64Array.from(scores.slice(own * steps, (own + 1) * steps));
          data.peaks[own].forEach(function (step) { isPeak[step] = 1; });
          data.rows[place] = {values: values, peaks: data.peaks[own], isPeak: isPeak, limit: data.limits[own]};
        });
        if (data.lens) {
          data.lens.at = unpacked(data.lens.at, data.lens.bytes, data.lens.bytes === 2 ? "getUint16" : "getUint32");
          data.lens.p = unpacked(data.lens.p, 2, "getUint16");
        }
        responses[k] = data;
      }
      return responses[k];
    }
    function scored() { return response.rows[row]; }

    function facts() {
      var list = one(box, ".rp-facts");
      list.textContent = "";
      response.facts.forEach(function (fact) {
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
    // Shares of the way from the lowest value of a layer to what its peaks exceed, or to its highest; 1 from there on.
    function shares(scores) {
      var sorted = ordered(scores.values), low = sorted[0], top = sorted[sorted.length - 1];
      var high = scores.limit !== null && scores.limit > low && scores.limit < top ? scores.limit : top;
      return Array.from(scores.values, function (value) {
        return isFinite(value) ? Math.min(1, (value - low) / (high - low || 1)) : NaN;
      });
    }
    function heatmap() {
      var steps = response.tokens.length, count = layers.length, cells = count * steps;
      var image = new Float64Array(cells), layer = new Array(cells), step = new Array(cells);
      var input = new Array(cells), token = new Array(cells), peak = new Array(cells), raw = new Array(cells);
      var how = scale.value;
      var dots = {x: [], y: []}, holes = {x: [], y: []}, low = Infinity, high = -Infinity;
      response.rows.forEach(function (scores, y) {
        var shades = scores && (
          how === "layer" ? shares(scores) : how === "rank" ? ranks(scores.values) : scores.values);
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
      if (how !== "value") { low = 0; high = 1; }
      if (!(low < high)) { low = isFinite(low) ? low - 0.5 : 0; high = low + 1; }
      models("colours").setv({low: low, high: high});
      var ends = {layer: [[0, "low"], [1, "peak"]], rank: [[0, "low"], [1, "high"]], value: []};
      models("bar").major_label_overrides = new Map(ends[how]);
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
        text += "Below: all layers, dots are peaks; the frame is " + name + ", the upright line the step chosen. " +
          "Colours go from " + {
            layer: "the lowest score of each layer to the line that its peaks exceed, in the text too",
            value: "the lowest to the highest score", rank: "the lowest to the highest rank within each layer"
          }[scale.value] + ".";
      }
      document.getElementById("r" + run + "-curves-alt").textContent = text;
    }
    function text() {
      var place = one(box, ".rp-text"), scores = scored(), shades = scores ? shares(scores) : [];
      place.textContent = "";
      spans = response.text.map(function (word, t) {
        var value = scores ? scores.values[t] : NaN, token = make("span", word, "rp-t");
        if (isFinite(value)) token.style.setProperty("--v", shades[t].toFixed(3));
        else token.classList.add("rp-none");
        if (scores && scores.isPeak[t]) token.classList.add("rp-peak");
        token.title = response.places[t] + ": nHSIC " + number(value);
        place.appendChild(token);
        if (!response.spaced) place.appendChild(document.createTextNode(" "));
        return token;
      });
    }
    function peaks() {
      var place = one(box, ".rp-peaks"), scores = scored(), found = scores ? scores.peaks : [];
      place.textContent = "";
      place.appendChild(make("span", "Peaks of layer " + layers[row] + (found.length ? ":" : ": none")));
      found.slice(0, 80).forEach(function (step) {
        var button = make("button", step + " " + response.places[step]);
        button.type = "button";
        button.title = "nHSIC " + number(scores.values[step]);
        button.addEventListener("click", function () { stepTo(step); told(); });
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
      var said = "Step " + step + " of 0 to " + last + ", " + response.places[step] + ": nHSIC " +
        number(value) + " at layer " + layers[row] + (isPeak ? ", a peak" : "");
      one(box, ".rp-at").textContent = said;
      slider.setAttribute("aria-valuetext", said);
      if (models) cursors.forEach(function (cursor) { cursor.location = step; });
      if (chosen) chosen.classList.remove("rp-chosen");
      chosen = spans[step];
      chosen.classList.add("rp-chosen");
      var panel = one(box, ".rp-text"), top = chosen.offsetTop;
      if (top < panel.scrollTop || top + 28 > panel.scrollTop + panel.clientHeight)
        panel.scrollTop = top - panel.clientHeight / 2;
      cell(one(box, ".rp-cell"), template, response, row, step);
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
      one(box, ".rp-name").textContent = response.name + ", layer " + layers[row];
      section.dispatchEvent(new CustomEvent("peaklens-layer", {detail: layers[row]}));
    }
    function moveLayer(by) {
      var to = row + by;
      if (to < 0 || to >= layers.length) return;
      layerPick.value = String(layers[to]);
      showLayer();
    }
    function choose(k, step) {
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
      stepTo(step === undefined ? (found.length ? found[0] : 0) : step);
    }
    // What is chosen stands in the address, so that a link opens the same.
    function told() {
      why.textContent = opened;
      var parts = {response: response.name, layer: layers[row], step: slider.value};
      if (run) parts.run = run;
      latest = run;
      var hash = Object.keys(parts).map(function (key) { return key + "=" + encodeURIComponent(parts[key]); });
      try { window.history.replaceState(null, "", "#" + hash.join("&")); } catch (error) {
        console.info("peaklens: this page has no address of its own:", error.message);
      }
    }
    function opens() {
      var asked = new URLSearchParams(window.location.hash.slice(1)), name = asked.get("response");
      if (name === null || Number(asked.get("run") || 0) !== run) return false;
      var k = names.indexOf(name), layer = Number(asked.get("layer")), step = Number(asked.get("step"));
      var wrong = k < 0 ? "response " + name : layers.indexOf(layer) < 0 ? "layer " + asked.get("layer") : "";
      if (!wrong && !(step >= 0 && step < load(k).tokens.length && step % 1 === 0)) wrong = "step " + asked.get("step");
      why.textContent = wrong ? "The address asks for " + wrong + ", which this page does not have. " + opened : opened;
      if (wrong) return false;
      layerPick.value = String(layer);
      choose(k, step);
      if (run) bar.scrollIntoView({block: "start"});
      return true;
    }
    function keyed(event) {
      var by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      var at = event.target, inside = box.contains(at) || bar.contains(at);
      var free = at === document.body && latest === run;
      if (!by || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
      // Lists and sliders have arrow keys of their own; up and down scroll the page where nothing is chosen.
      if (!(inside || free) || /^(SELECT|INPUT)$/.test(at.tagName) || (by[1] && free)) return;
      event.preventDefault();
      if (by[1]) moveLayer(by[1]);
      else if (event.shiftKey) nextPeak(by[0]);
      else stepTo(Number(slider.value) + by[0]);
      told();
    }
    function on(element, name, then) { element.addEventListener(name, function (event) { then(event); told(); }); }
    on(pick, "change", function () { choose(Number(pick.value)); });
    on(layerPick, "change", showLayer);
    scale.addEventListener("change", function () { if (models) heatmap(); caption(); });
    on(before, "click", function () { choose(Math.max(0, Number(pick.value) - 1)); });
    on(after, "click", function () { choose(Math.min(stored.length - 1, Number(pick.value) + 1)); });
    on(slider, "input", function () { stepTo(Number(slider.value)); });
    on(one(bar, ".rp-peak-before"), "click", function () { nextPeak(-1); });
    on(one(bar, ".rp-peak-after"), "click", function () { nextPeak(1); });
    one(box, ".rp-text").addEventListener("click", function (event) {
      var place = spans.indexOf(event.target);
      if (place >= 0) { stepTo(place); told(); }
    });
    document.addEventListener("keydown", keyed);
    document.addEventListener("peaklens-tap", function (event) {
      if (event.detail.run !== run) return;
      var y = event.detail.y === null ? row : Math.round(event.detail.y);
      if (y !== row && y >= 0 && y < layers.length) { layerPick.value = String(layers[y]); showLayer(); }
      stepTo(Math.round(event.detail.x));
      told();
    });
    all(section, ".rp-open").forEach(function (button) {
      on(button, "click", function () {
        choose(Number(button.dataset.open));
        bar.scrollIntoView({block: "start"});
        pick.focus({preventScroll: true});
      });
    });
    window.addEventListener("hashchange", opens);
    box.hidden = bar.hidden = false;
    if (!opens()) choose(Number(pick.value));
    embed(template.item, one(box, ".rp-plot"), function (get, root) {
      models = get;
      ImageArray = get("cells").data.image[0].constructor;
      cursors = Array.from(root.document._all_models.values()).filter(function (model) {
        return model.tags && model.tags.indexOf("cursor") >= 0;
      });
      var full = [get("curve").height, get("map").height];
      function fitted() {  // on a phone all of it in one screen
        var narrow = window.innerWidth < 560;
        get("curve").height = narrow ? 110 : full[0];
        get("map").height = narrow ? Math.min(full[1], 140) : full[1];
        get("map").below[0].axis_label = narrow ? null : "step";
      }
      fitted();
      window.addEventListener("resize", fitted);
      heatmap();
      line();
      stepTo(Number(slider.value));
    });
  }
"""
