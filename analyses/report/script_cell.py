"""What is known of one (layer, step): both tokens, the score, how sure the model was, what the logit lens says."""

from __future__ import annotations

__all__ = ["CELL"]

CELL = r"""
  function percent(share) {
    if (share >= 0.9995) return "100 %";
    return share < 0.0005 ? "< 0.1 %" : (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %";
  }
  function cell(place, template, response, row, step) {
    var scores = response.rows[row], value = scores ? scores.values[step] : NaN, layer = template.layers[row];
    var where = make("p", undefined, "rp-where"), facts = make("dl", undefined, "rp-known");
    function fact(name, text, note) {
      var pair = make("div"), value = make("dd", text);
      if (note) value.appendChild(make("span", " " + note, "pl-soft"));
      pair.append(make("dt", name), value);
      facts.appendChild(pair);
    }
    place.textContent = "";
    var last = response.tokens.length - 1, head = make("p", "Step " + step + " of 0 to " + last + ", layer " + layer);
    head.className = "rp-stepped";
    if (scores && scores.isPeak[step]) head.append(" ", make("strong", "peak", "rp-flag"));
    place.appendChild(head);
    where.append("after ", make("code", response.inputs[step], "pl-code"), ", before ",
      make("code", response.tokens[step], "pl-code"));
    place.appendChild(where);
    var limit = scores ? scores.limit : null;
    fact("nHSIC", number(value), !scores ? "not scored" : limit === null ? "" :
      "(line at " + Number(limit.toPrecision(3)) + ")");
    if (response.logprob) {
      var logprob = response.logprob[step], entropy = response.entropy[step];
      fact("entropy", entropy === null ? "undefined" : entropy.toFixed(3) + " nats");
      fact("log-probability", logprob === null ? "undefined" : logprob.toFixed(3) + " nats",
        logprob === null ? "" : "(" + percent(Math.exp(logprob)) + ")");
    } else fact("log-probability, entropy", "not kept by this run");
    place.appendChild(facts);
    place.appendChild(lens(template, response, layer, step));
  }
  function lens(template, response, layer, step) {
    var said = make("div", undefined, "rp-lens"), kept = response.lens, at = kept ? kept.layers.indexOf(layer) : -1;
    said.appendChild(make("h3", "Logit lens, layer " + layer));
    if (at < 0) {
      said.appendChild(make("p", kept ?
        "Its words are kept at layers " + kept.layers.join(", ") + ": the response is long." :
        "The words of this response are not " + (template.lens.run ? "kept: the page has those of " +
        several(template.lens.page, "response") : "kept in this run") +
        ". peaklens trace --lens N, with the same options, keeps those of N responses.", "pl-soft"));
      return said;
    }
    var list = make("ol"), begin = (at * response.tokens.length + step) * kept.k;
    for (var rank = 0; rank < kept.k; rank++) {
      var word = kept.words[kept.at[begin + rank]], share = kept.p[begin + rank] / 65535, item = make("li");
      var bar = make("span", undefined, "rp-share");
      bar.style.setProperty("--v", share.toFixed(4));
      item.append(make("code", word, "pl-code"), bar, make("span", percent(share), "rp-number"));
      if (word === response.tokens[step]) item.className = "rp-said";
      list.appendChild(item);
    }
    said.appendChild(list);
    return said;
  }
"""
