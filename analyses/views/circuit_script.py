"""The script of the circuit picture: what is drawn, on two canvases, and how it moves.

1. The lower canvas has all edges and nodes, drawn anew when the picture moves or the threshold changes; edges are put
   together into few paths by sign and strength, so that 2,000 of them cost little. The upper one has what is looked at.
2. Coordinates of the data are units of a node's place; the camera is a scale and a shift. The names of positions and
   layers stay at the margins.
3. All text goes to the page by ``textContent`` or ``fillText``: it is never read as HTML.
"""

from __future__ import annotations

from analyses.views.assets import inline_script
from analyses.views.circuit_controls import CONTROLS
from analyses.views.circuit_panel import PANEL

__all__ = ["CIRCUIT_SCRIPT"]

_DRAWING = r"""
  var LEFT = 54, TOP = 70, BOTTOM = 70, RIGHT = 14, STEPS = 7, PAD = 120;
  function colour(S, name) { return S.colours[name]; }
  function readColours(S) {
    var style = getComputedStyle(S.root),
      names = ["paper", "band", "ink", "soft", "line", "link", "pos", "neg", "pale", "mark"];
    S.colours = {};
    names.forEach(function (name) { S.colours[name] = style.getPropertyValue("--pc-" + name).trim(); });
    S.mixed = {};
  }
  function rgb(hex) { return [1, 3, 5].map(function (i) { return parseInt(hex.slice(i, i + 2), 16); }); }
  // From pale to the colour of the sign, by the square root of the size: few are large.
  function shade(S, value, most) {
    var level = most > 0 ? Math.round(24 * Math.sqrt(Math.min(1, Math.abs(value) / most))) : 0,
      key = (value < 0 ? -1 : 1) * (level + 1);
    if (!S.mixed[key]) {
      var a = rgb(S.colours.pale), b = rgb(value < 0 ? S.colours.neg : S.colours.pos), t = level / 24;
      var c = a.map(function (v, i) { return Math.round(v + t * (b[i] - v)); });
      var light = c.map(function (v) { v /= 255; return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
        });
      var luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
      S.mixed[key] = ["rgb(" + c.join(",") + ")", luminance > 0.18 ? "#000" : "#fff"];
    }
    return S.mixed[key];
  }
  function radius(S) { return Math.max(3.2, Math.min(14, 0.41 * S.scale)); }
  function px(S, n) { return LEFT + (S.N.x[n] * S.scale + S.dx); }
  function py(S, n) { return TOP + (S.N.y[n] * S.scale + S.dy); }
  // An edge leaves upward and arrives from below; within a column it bows, so as not to run through what is between.
  function trace(S, path, e) {
    var a = S.E.s[e], b = S.E.t[e], x1 = S.N.x[a], y1 = S.N.y[a] - 0.34, x2 = S.N.x[b], y2 = S.N.y[b] + 0.34;
    if (S.E.port[e] === "q") x2 -= 0.16;
    if (S.E.port[e] === "v") x2 += 0.16;
    var rise = Math.max(0.4, y1 - y2), bow = Math.abs(x1 - x2) < 1.2 && rise > 1 ?
      Math.min(1.1, 0.25 + 0.05 * rise) * (e % 2 ? 1 : -1) : 0;
    path.moveTo(x1, y1);
    path.bezierCurveTo(x1 + bow, y1 - 0.45 * rise, x2 + bow, y2 + 0.45 * rise, x2, y2);
  }
  function strength(S, e) { return Math.sqrt(Math.min(1, Math.abs(S.E.score[e]) / (S.most.edge || 1))); }
  function buckets(S) {
    S.paths = [];
    var byKey = {};
    S.seen.edges.forEach(function (e) {
      var level = Math.min(STEPS - 1, Math.floor(strength(S, e) * STEPS)),
        key = 2 * level + (S.E.score[e] < 0 ? 1 : 0);
      (byKey[key] = byKey[key] || new Path2D());
      trace(S, byKey[key], e);
    });
    Object.keys(byKey).map(Number).sort(function (a, b) { return a - b; }).forEach(function (key) {
      S.paths.push({path: byKey[key], level: (key >> 1) / (STEPS - 1), minus: key % 2 === 1});
    });
  }
  function fitted(S, canvas) {
    var ratio = Math.min(2, window.devicePixelRatio || 1), w = Math.round(S.width * ratio),
      h = Math.round(S.height * ratio);
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w; canvas.height = h;
      canvas.style.width = S.width + "px"; canvas.style.height = S.height + "px";
    }
    var ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, S.width, S.height);
    return {ctx: ctx, ratio: ratio};
  }
  function inside(S, ctx) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(LEFT, TOP - 4, S.width - LEFT, S.height - TOP - BOTTOM + 8);
    ctx.clip();
  }
  function inPixels(S) { return new DOMMatrix([S.scale, 0, 0, S.scale, LEFT + S.dx, TOP + S.dy]); }
  function drawBase(S) {
    var on = fitted(S, S.base), ctx = on.ctx;
    ctx.fillStyle = colour(S, "paper");
    ctx.fillRect(0, 0, S.width, S.height);
    bands(S, ctx);
    names(S, ctx);
    inside(S, ctx);
    var kept = S.kept, k = kept && S.scale / kept.scale, x = kept && LEFT + S.dx - k * (PAD + LEFT + kept.dx),
      y = kept && TOP + S.dy - k * (PAD + TOP + kept.dy);
    // While it moves, the edges of a moment ago are moved; they are drawn anew when it rests, or where they end.
    var covers = S.moving && kept && kept.of === S.paths && k > 0.5 && k < 2.5 &&
      ((x <= LEFT && x + k * kept.width >= S.width) || k < 1) &&
        ((y <= TOP && y + k * kept.height >= S.height - BOTTOM) || k < 1);
    if (!covers) { keepEdges(S, on.ratio); x = y = -PAD; k = 1; }
    ctx.drawImage(S.kept.canvas, x, y, k * S.kept.width, k * S.kept.height);
    for (var n = 0; n < S.N.x.length; n++) node(S, ctx, n, !S.seen.nodes[n]);
    ctx.restore();
  }
  // All edges on a canvas of their own, somewhat larger than what is seen. Lines of one pixel are drawn much faster
  // than
  // wider ones, and paths in pixels faster than paths under a scale.
  function keepEdges(S, ratio) {
    var canvas = S.kept ? S.kept.canvas : document.createElement("canvas"), w = S.width + 2 * PAD,
      h = S.height + 2 * PAD;
    canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
    var ctx = canvas.getContext("2d"), place = inPixels(S), many = S.seen.edges.length;
    ctx.setTransform(ratio, 0, 0, ratio, PAD * ratio, PAD * ratio);
    S.paths.forEach(function (one) {
      var path = new Path2D();
      path.addPath(one.path, place);
      ctx.strokeStyle = colour(S, one.minus ? "neg" : "pos");
      ctx.globalAlpha = 0.14 + 0.66 * one.level;
      ctx.lineWidth = many > 800 && one.level < 0.5 ? 1 / ratio : 0.7 + 3 * one.level;
      ctx.setLineDash(one.minus && many <= 300 ? [5, 3] : []);
      ctx.stroke(path);
    });
    S.kept = {canvas: canvas, scale: S.scale, dx: S.dx, dy: S.dy, width: w, height: h, of: S.paths};
  }
  function outline(ctx, kind, x, y, r) {
    ctx.beginPath();
    if (kind === "mlp") ctx.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
    else if (kind === "bias") { ctx.moveTo(x, y - 1.1 * r); ctx.lineTo(x + 1.1 * r, y); ctx.lineTo(x, y + 1.1 * r);
      ctx.lineTo(x - 1.1 * r, y); ctx.closePath(); }
    else if (kind === "embed") { ctx.moveTo(x, y - r); ctx.lineTo(x + 1.1 * r, y + 0.85 * r);
      ctx.lineTo(x - 1.1 * r, y + 0.85 * r); ctx.closePath(); }
    else if (kind === "head") ctx.arc(x, y, r, 0, 2 * Math.PI);
    else { for (var i = 0; i < 6;
      i++) ctx.lineTo(x + 1.2 * r * Math.cos(i * Math.PI / 3), y + 1.2 * r * Math.sin(i * Math.PI / 3));
        ctx.closePath(); }
  }
  // The left half is what was predicted, the right one what was measured, where it was.
  function node(S, ctx, n, faint) {
    var x = px(S, n), y = py(S, n), r = radius(S), kind = S.N.kind[n], score = S.N.score[n], exact = S.N.exact[n];
    if (x < LEFT - 2 * r || x > S.width + 2 * r || y < TOP - 2 * r || y > S.height - BOTTOM + 2 * r) return;
    ctx.globalAlpha = faint ? 0.22 : 1;
    outline(ctx, kind, x, y, r);
    var fill = score === null ? null : shade(S, score, S.most.node);
    ctx.fillStyle = fill ? fill[0] : colour(S, "paper");
    ctx.fill();
    if (exact !== null) {
      ctx.save();
      ctx.clip();
      ctx.fillStyle = shade(S, exact, S.most.node)[0];
      ctx.fillRect(x, y - 2 * r, 2 * r, 4 * r);
      ctx.restore();
      outline(ctx, kind, x, y, r);
    }
    ctx.lineWidth = 1.1;
    ctx.strokeStyle = colour(S, score === null ? "soft" : "ink");
    if (score !== null && score < 0) ctx.setLineDash([2.4, 1.8]);
    ctx.stroke();
    ctx.setLineDash([]);
    if (S.pinned[n]) ring(S, ctx, n, 3, "mark");
    if (r > 8) {
      ctx.font = "600 " + Math.round(1.05 * r) + "px system-ui,sans-serif";
      ctx.textAlign = "center"; ctx.textBaseline = "middle";
      ctx.fillStyle = exact !== null && fill ? colour(S, "ink") : fill ? fill[1] : colour(S, "soft");
      if (exact !== null) { ctx.lineWidth = 3; ctx.strokeStyle = colour(S, "paper");
        ctx.strokeText(S.N.mark[n], x, y + 0.5); }
      ctx.fillText(S.N.mark[n], x, y + (kind === "embed" ? 0.2 * r : 0.5));
    }
    ctx.globalAlpha = 1;
  }
  function ring(S, ctx, n, gap, name) {
    outline(ctx, S.N.kind[n], px(S, n), py(S, n), radius(S) + gap);
    ctx.lineWidth = 2.4;
    ctx.strokeStyle = colour(S, name);
    ctx.stroke();
  }
  var FONT = "12px system-ui,sans-serif", MONO = "12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace";
  function bands(S, ctx) {
    S.data.bands.forEach(function (band, i) {
      var top = Math.max(TOP - 4, TOP + band.top * S.scale + S.dy - 2),
        bottom = Math.min(S.height - BOTTOM + 4, TOP + band.bottom * S.scale + S.dy + 2);
      if (i % 2 && bottom > top) { ctx.fillStyle = colour(S, "band"); ctx.fillRect(LEFT, top, S.width, bottom - top);
        }
    });
  }
  function names(S, ctx) {
    var data = S.data;
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, TOP - 6, S.width, S.height - TOP - BOTTOM + 12);
    ctx.clip();
    data.bands.forEach(function (band, i) {
      var top = TOP + band.top * S.scale + S.dy, bottom = TOP + band.bottom * S.scale + S.dy;
      ctx.fillStyle = colour(S, "soft"); ctx.font = FONT; ctx.textAlign = "right"; ctx.textBaseline = "middle";
      if (bottom - top > 8 || i % 2) ctx.fillText(band.label, LEFT - 7, (top + bottom) / 2);
    });
    ctx.restore();
    ctx.save();
    ctx.beginPath();
    ctx.rect(LEFT - 16, 0, S.width, TOP);
    ctx.rect(LEFT - 16, S.height - BOTTOM, S.width, BOTTOM);
    ctx.clip();
    var narrow = data.columns.length ?
      S.scale * Math.min.apply(null, data.columns.map(function (c) { return 2 * c.half + 0.7; })) : 100;
    // Where there is no room for each name, every second or third is left out; the one looked at never.
    var every = Math.max(1, Math.ceil(13 / Math.max(1, narrow))), looked = S.focus === null ? -1 :
      S.N.column[S.focus];
    data.columns.forEach(function (column, c) {
      var x = LEFT + column.x * S.scale + S.dx;
      if (x < LEFT - 8 || x > S.width + 20) return;
      if (column.gap) {
        ctx.fillStyle = colour(S, "soft"); ctx.font = FONT; ctx.textAlign = "center";
        ctx.fillText("⋯", x - (column.half + 0.8) * S.scale, S.height - BOTTOM + 12);
      }
      ctx.strokeStyle = colour(S, "line"); ctx.lineWidth = 1;
      ctx.beginPath(); ctx.moveTo(x, S.height - BOTTOM + 2); ctx.lineTo(x, S.height - BOTTOM + 7);
        ctx.moveTo(x, TOP - 7); ctx.lineTo(x, TOP - 2); ctx.stroke();
      if (c !== looked && (c % every || (looked >= 0 && Math.abs(c - looked) < every))) return;
      ctx.fillStyle = colour(S, c === looked ? "ink" : "soft");
      ctx.font = (c === looked ? "700 " : "") + MONO;
      name(ctx, column.read, x, S.height - BOTTOM + 12, narrow, true);
      name(ctx, column.says, x, TOP - 12, narrow, false);
    });
    ctx.restore();
    ctx.fillStyle = colour(S, "soft"); ctx.font = "11px system-ui,sans-serif"; ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
    if (data.said) ctx.fillText("says", 4, TOP - 12);
    if (data.heard) ctx.fillText("reads", 4, S.height - BOTTOM + 20);
  }
  function name(ctx, text, x, y, room, below) {
    ctx.save();
    ctx.translate(x, y);
    if (room < 54) ctx.rotate(-Math.PI / 3);
    ctx.textAlign = room < 54 ? (below ? "right" : "left") : "center";
    ctx.textBaseline = room < 54 ? "middle" : below ? "top" : "bottom";
    ctx.fillText(text.length > 9 ? text.slice(0, 8) + "…" : text, 0, 0);
    ctx.restore();
  }
  // What is looked at: a node with its edges and what is at their other ends; what a search found; edges of pins.
  function drawOver(S) {
    var on = fitted(S, S.over), ctx = on.ctx, focus = S.focus, found = S.found;
    S.base.style.opacity = focus !== null ? 0.22 : found ? 0.4 : 1;
    if (focus === null && !found) return;
    inside(S, ctx);
    var near = {};
    if (focus !== null) {
      var place = inPixels(S);
      S.around(focus).forEach(function (e) {
        near[S.E.s[e]] = near[S.E.t[e]] = true;
        var path = new Path2D(), units = new Path2D(), level = strength(S, e), minus = S.E.score[e] < 0;
        trace(S, units, e);
        path.addPath(units, place);
        ctx.strokeStyle = colour(S, minus ? "neg" : "pos");
        ctx.globalAlpha = 0.35 + 0.65 * level;
        ctx.lineWidth = 1 + 3.6 * level;
        ctx.setLineDash(minus ? [5, 3] : []);
        ctx.stroke(path);
      });
      ctx.globalAlpha = 1;
      ctx.setLineDash([]);
      near[focus] = true;
    }
    for (var n = 0; n < S.N.x.length; n++) {
      if (near[n] || (found && found[n])) node(S, ctx, n, false);
      if (found && found[n]) ring(S, ctx, n, 3, "link");
    }
    if (focus !== null) ring(S, ctx, focus, 3.5, S.selected === focus ? "link" : "soft");
    ctx.restore();
    if (focus !== null) names(S, ctx);
  }
  function drawing(S) {
    var waiting = {};
    S.redraw = function (what) {
      waiting[what] = true;
      if (waiting.frame) return;
      waiting.frame = true;
      requestAnimationFrame(function () {
        var base = waiting.base;
        waiting = {};
        if (!S.width) return;
        if (base) drawBase(S);
        drawOver(S);
        if (S.onframe) S.onframe();
      });
    };
    S.moved = function () {
      S.moving = true;
      clearTimeout(S.rests);
      S.rests = setTimeout(function () { S.moving = false; S.redraw("base"); }, 140);
      S.redraw("base");
    };
    S.rebuild = function () { S.choose(); buckets(S); S.redraw("base"); };
  }
"""

_START = r"""
  return function (root) {
    if (root.dataset.drawn) return;
    root.dataset.drawn = "1";
    var data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    var S = {root: root, data: data, N: data.nodes, E: data.edges, most: data.most, pinned: {}, selected: null,
      hovered: null,
      focus: null, found: null, scale: 10, dx: 0, dy: 0, width: 0, height: 0};
    try {
      S.stage = root.querySelector(".pc-stage");
      S.base = S.stage.querySelectorAll("canvas")[0];
      S.over = S.stage.querySelectorAll("canvas")[1];
      root.querySelector(".pc-live").hidden = false;
      readColours(S);
      drawing(S);
      panel(S);
      controls(S);
      root.peaklens = S;
      root.querySelector(".pc-still").hidden = true;
    } catch (error) {
      root.querySelector(".pc-live").hidden = true;
      root.querySelector(".pc-still").hidden = false;
      console.error("peaklens: the still picture is shown, since drawing failed:", error);
    }
  };
"""

CIRCUIT_SCRIPT = inline_script(
    "window.peaklensCircuit1=window.peaklensCircuit1||(function(){'use strict';"
    f"{_DRAWING}{PANEL}{CONTROLS}{_START}}})();"
    "document.querySelectorAll('.pc').forEach(window.peaklensCircuit1);"
)
