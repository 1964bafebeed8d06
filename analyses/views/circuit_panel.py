"""The panel of the circuit picture, as script: the strongest nodes, or one node with its edges, words and attention."""

from __future__ import annotations

__all__ = ["PANEL"]

PANEL = r"""
  var MOST = 10;
  function shown(value) {
    if (value === null || value === undefined) return "–";
    var size = Math.abs(value);
    return (value < 0 ? "−" : "") +
      (size !== 0 && (size < 0.001 || size >= 100000) ? size.toExponential(1) : String(+size.toPrecision(3)));
  }
  function make(tag, look, text) {
    var made = document.createElement(tag);
    if (look) made.className = look;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function sign(value) { return value === null || value === undefined ? "pc-soft" : value < 0 ? "pc-neg" : "pc-pos"; }
  function number(value) {
    return make("td", sign(value), shown(value));
  }
  function panel(S) {
    var side = S.root.querySelector(".pc-side"), status = S.root.querySelector(".pc-status"), data = S.data;
    function place(n) {
      var column = data.columns[S.N.column[n]];
      return column.position === null ? "" : "@" + column.position;
    }
    S.label = function (n) { return S.N.name[n] + place(n); };
    function tokens(n, into) {
      var column = data.columns[S.N.column[n]];
      if (column.position === null) return;
      into.append(document.createTextNode((column.step === null ? "position " + column.position :
        "position " + column.position + ", step " + column.step)));
      if (column.read) into.append(document.createTextNode(" · reads "), make("span", "pc-token", column.read));
      if (column.says) into.append(document.createTextNode(" · predicts "), make("span", "pc-token", column.says));
    }
    S.spoken = function (n) {
      var column = data.columns[S.N.column[n]];
      return S.label(n) + (column.read ? ", reads " + column.read : "") +
        (column.says ? ", predicts " + column.says : "") +
        ", predicted " + shown(S.N.score[n]) + (S.N.exact[n] === null ? "" : ", measured " + shown(S.N.exact[n]));
    };
    S.tip = function (n) {
      var box = document.createDocumentFragment(), line = make("span");
      box.append(make("b", "", S.label(n)));
      tokens(n, line);
      if (line.textContent) { box.append(line, document.createElement("br")); }
      box.append(document.createTextNode("predicted " + shown(S.N.score[n]) +
        (S.N.exact[n] === null ? "" : ", measured " + shown(S.N.exact[n]))));
      return box;
    };
    function go(n) {
      var button = make("button", "", S.label(n));
      button.type = "button";
      button.addEventListener("click", function () { S.select(n, true); });
      return button;
    }
    // Rows of [node, what stands behind its name, predicted, measured]; the first ones, and the rest on demand.
    function listed(title, rows, none) {
      side.append(make("h4", "", title + (rows.length ? " (" + rows.length + ")" : "")));
      if (!rows.length) { side.append(make("p", "pc-soft", none)); return; }
      var table = make("table"), head = make("tr");
      ["node", "predicted", "measured"].forEach(function (text) { var th = make("th", "", text); th.scope = "col";
        head.append(th); });
      table.append(head);
      function add(row) {
        var tr = make("tr"), td = make("td");
        td.append(go(row[0]));
        if (row[1]) td.append(document.createTextNode(" "), make("span", "pc-soft", row[1]));
        tr.append(td, number(row[2]), number(row[3]));
        table.append(tr);
      }
      rows.slice(0, MOST).forEach(add);
      side.append(table);
      if (rows.length > MOST) {
        var more = make("button", "", "Show all " + rows.length);
        more.type = "button";
        more.addEventListener("click", function () { rows.slice(MOST).forEach(add); more.remove(); });
        side.append(more);
      }
    }
    function bars(rows) {
      var most = Math.max.apply(null, rows.map(function (row) { return Math.abs(row[1]); })) || 1,
        box = make("div", "pc-bars");
      rows.forEach(function (row) {
        var word = make("span"), bar = make("i", row[1] < 0 ? "pc-minus" : "");
        word.append(make("span", "pc-token", row[0]));
        var cell = make("span");
        bar.style.width = 100 * Math.abs(row[1]) / most + "%";
        cell.append(bar);
        box.append(word, cell, make("span", "", shown(row[1])));
      });
      side.append(box);
    }
    function scatter(title, what) {
      var points = what.score.map(function (p, i) { return [p, what.exact[i]]; }).filter(function (p) {
        return p[0] !== null && p[1] !== null; });
      if (points.length < 3) return;
      var most = Math.max.apply(null,
        points.map(function (p) { return Math.max(Math.abs(p[0]), Math.abs(p[1])); })) || 1;
      var ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
      function add(tag, attributes, text) {
        var made = document.createElementNS(ns, tag);
        Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
        if (text) made.textContent = text;
        svg.append(made);
      }
      function at(v) { return 85 * (v < 0 ? -1 : 1) * Math.sqrt(Math.abs(v) / most); }
      svg.setAttribute("viewBox", "-130 -100 260 215");
      svg.setAttribute("class", "pc-scatter");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", title);
      add("line", {x1: -95, x2: 95, y1: 0, y2: 0}); add("line", {x1: 0, x2: 0, y1: -95, y2: 95});
      add("line", {x1: -90, x2: 90, y1: 90, y2: -90, "stroke-dasharray": "4 3"});
      points.forEach(function (p) { add("circle", {cx: at(p[0]), cy: -at(p[1]), r: 2.6}); });
      add("text", {x: 95, y: 108, "text-anchor": "end"}, "predicted →");
      add("text", {x: -95, y: -88, "text-anchor": "start"}, "measured ↑");
      side.append(make("h4", "", title), svg);
    }
    function overview() {
      side.textContent = "";
      side.append(make("h3", "", S.N.order.length ? "Strongest nodes" : "Strongest edges"));
      var rows = S.N.order.map(function (n) {
        var column = data.columns[S.N.column[n]];
        return [n, column.read ? "reads " + column.read : "", S.N.score[n], S.N.exact[n]];
      });
      if (!rows.length) rows = S.E.order.map(function (e) {
        return [S.E.s[e], "→ " + S.label(S.E.t[e]) + " " + S.E.port[e], S.E.score[e], S.E.exact[e]];
      });
      listed("By size of what was predicted", rows, "Nothing was scored.");
      if (data.agree.nodes) scatter("Nodes: " + data.agree.nodes, S.N);
      if (data.agree.edges) scatter("Edges: " + data.agree.edges, S.E);
      side.append(make("p", "pc-soft",
        "Click a node, or press Tab and the arrow keys, to see what it reads and what reads it."));
    }
    function detail(n) {
      side.textContent = "";
      var head = make("h3"), pin = make("button", "", S.pinned[n] ? "Unpin" : "Pin");
      pin.type = "button";
      pin.className = "pc-pin";
      pin.setAttribute("aria-pressed", String(!!S.pinned[n]));
      pin.addEventListener("click", function () { S.pin(n); });
      head.append(make("span", "", S.label(n)), pin);
      side.append(head);
      var where = make("p", "pc-soft");
      tokens(n, where);
      side.append(where);
      var facts = make("p");
      facts.append(document.createTextNode("predicted "), make("b", sign(S.N.score[n]), shown(S.N.score[n])),
        document.createTextNode(", measured "), make("b", sign(S.N.exact[n]), shown(S.N.exact[n])),
        document.createTextNode(" of " + data.metric));
      side.append(facts);
      var into = [], out = [];
      S.E.s.forEach(function (s, e) {
        if (S.E.score[e] === null) return;
        if (s === n) out.push([S.E.t[e], S.E.port[e], S.E.score[e], S.E.exact[e]]);
        if (S.E.t[e] === n) into.push([s, S.E.port[e], S.E.score[e], S.E.exact[e]]);
      });
      if (S.E.s.length) {
        listed("Reads from", into, "Nothing among the edges here.");
        listed("Is read by", out, "Nothing among the edges here.");
      }
      var words = data.words[n], looks = data.attention[n];
      if (words) { side.append(make("h4", "", "Its write through the logit lens")); bars(words); }
      if (looks) { side.append(make("h4", "", "Attends to")); bars(looks); }
    }
    S.showPanel = function () {
      if (S.selected === null) overview(); else detail(S.selected);
      side.scrollTop = 0;
    };
    S.say = function (text) { status.textContent = text; };
    S.showPanel();
  }
"""
