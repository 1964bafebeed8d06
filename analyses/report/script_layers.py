"""What follows the layer of the page below its first screen: tables by layer, list of responses, comparison."""

from __future__ import annotations

__all__ = ["LAYERS"]

LAYERS = r"""
  // Numbers of all responses by layer; of a layer that the page has no room for, those of the nearest one.
  function numbers(section) {
    var data = read(one(section, ".rp-layered")), rows = data.steps.length, chosen = 0;
    var values = unpacked(data.values, 4, "getFloat32");
    return {
      take: function (layer) {
        data.layers.forEach(function (other, k) {
          if (Math.abs(other - layer) < Math.abs(data.layers[chosen] - layer)) chosen = k;
        });
        return data.layers[chosen];
      },
      of: function (measure, row) {
        if (measure === "n_steps") return data.steps[row];
        if (measure === "ratio") return this.of("n_peaks", row) / data.steps[row];
        return values[(data.measures.indexOf(measure) * data.layers.length + chosen) * rows + row];
      },
      steps: data.steps
    };
  }
  function nearest(layer, taken) {
    return "layer " + taken + (layer === taken ? "" : " (the page has no room for all of them at layer " + layer + ")");
  }
  function plain(value, digits) {
    if (!isFinite(value)) return "–";
    return String(Number(value.toPrecision(digits))).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }
  // Lets a section follow its layer; what comes back draws its comparison.
  function follow(section) {
    var known = numbers(section), table = one(section, ".rp-responses"), box = one(section, ".rp-groups");
    var columns = ["n_steps", "n_peaks", "ratio", "interval_mean", "mean_mi", "sum_mi"];
    var comparison = box ? compare(box, known) : null;
    section.addEventListener("peaklens-layer", function (event) {
      var layer = event.detail, taken = known.take(layer);
      all(section, ".rp-by-layer").forEach(function (part) { part.hidden = Number(part.dataset.layer) !== layer; });
      all(section, ".rp-statistics tbody tr, .rp-resembles tbody tr, .rp-nulls tbody tr").forEach(function (line) {
        line.classList.toggle("rp-chosen", line.children[0].textContent === String(layer));
      });
      if (comparison) comparison.show(layer, taken);
      one(table, ".rp-of-layer").textContent = nearest(layer, taken);
      all(table, "tbody tr").forEach(function (line) {
        columns.forEach(function (name, k) {
          var value = known.of(name, Number(line.dataset.row)), place = line.children[k + 2];
          place.dataset.v = isFinite(value) ? value : "";
          place.textContent = name === "ratio" ? (100 * value).toFixed(1) + "\u202f%" : plain(value, k > 3 ? 4 : 3);
        });
      });
    });
    return comparison ? comparison.draw : function () {};
  }

  // Right against wrong
  function compare(box, known) {
    var data = read(one(box, ".rp-group-data")), measure = one(box, ".rp-measure");
    var models = null, layer = 0, taken = 0;
    function show() {
      var values = data.rows.map(function (row) { return known.of(measure.value, row); });
      var name = data.measures[measure.value], parts = [], medians = {x0: [], x1: [], y: []};
      data.groups.forEach(function (group, k) {
        var own = ordered(values.filter(function (value, i) { return data.of[i] === k; }));
        if (!own.length) { parts.push(group + ": no values"); return; }
        var middle = quantile(own, 0.5);
        medians.x0.push(k - 0.32);
        medians.x1.push(k + 0.32);
        medians.y.push(middle);
        parts.push(group + " (n = " + own.length + "): median " + number(middle) + ", from " + number(own[0]) + " to " +
          number(own[own.length - 1]));
      });
      one(box, "figcaption").textContent = name[0].toUpperCase() + name.slice(1) + ", " + nearest(layer, taken) + ". " +
        parts.join("; ") + ". A dot is a response, a bar the median.";
      if (!models) return;
      // The same place for the same response in every figure: side by side, by the golden ratio.
      models("groups").data = {
        x: data.of.map(function (k, i) { return k + 0.5 * ((i * 0.618034) % 1 - 0.5); }),
        y: values, name: data.names, steps: data.rows.map(function (row) { return known.steps[row]; }),
        group: data.of.map(function (k) { return data.groups[k]; }),
        colour: data.of.map(function (k) { return data.colours[k]; })
      };
      models("medians").data = medians;
      fit(models("height"), values.filter(isFinite));
      models("figure").left[0].axis_label = name.split(" (")[0];
    }
    measure.addEventListener("change", show);
    box.hidden = false;
    return {
      draw: function () { embed(data.item, one(box, ".rp-plot"), function (get) { models = get; show(); }); },
      show: function (chosen, kept) { layer = chosen; taken = kept; show(); }
    };
  }
"""
