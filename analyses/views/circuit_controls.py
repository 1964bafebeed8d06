"""What a reader can do with the circuit picture, as script: threshold, search, pins, pointer, keys, zoom, screen."""

from __future__ import annotations

__all__ = ["CONTROLS"]

CONTROLS = r"""
  function controls(S) {
    var root = S.root, data = S.data, stage = S.stage, find = function (name) { return root.querySelector("." + name);
      };
    var slider = find("pc-slide"), said = find("pc-said"), lead = find("pc-lead"), search = find("pc-search"),
      hits = find("pc-hits");
    var only = find("pc-only"), pins = find("pc-pins"), tip = find("pc-tip"), count = S.N.x.length;
    var things = S.E.s.length ? S.E : S.N, word = S.E.s.length ? "edges" : "nodes";
    var scored = things.order.length, byNode = S.N.x.map(function () { return []; });
    S.E.s.forEach(function (s, e) { byNode[s].push(e); if (S.E.t[e] !== s) byNode[S.E.t[e]].push(e); });
    var target = S.N.x.map(function (_, n) { return n; }).filter(function (n) { return S.N.target[n]; });

    // Which edges and nodes are seen: the strongest so many, those that lead to the target, those between pins.
    S.howMany = function () { return Math.round(Math.pow(scored, slider.value / 1000)); };
    S.choose = function () {
      var k = scored ? Math.min(scored, S.howMany()) : 0, first = things.order.slice(0, k), edges = S.E.s.length ?
        first : [];
      var least = k ? Math.abs(things.score[first[k - 1]]) : 0;
      if (lead.checked && S.E.s.length) {
        var reached = {}, into = {}, open = target.slice(), keep = {};
        edges.forEach(function (e) { (into[S.E.t[e]] = into[S.E.t[e]] || []).push(e); });
        target.forEach(function (n) { reached[n] = true; });
        while (open.length) (into[open.pop()] || []).forEach(function (e) {
          keep[e] = true;
          if (!reached[S.E.s[e]]) { reached[S.E.s[e]] = true; open.push(S.E.s[e]); }
        });
        edges = edges.filter(function (e) { return keep[e]; });
      }
      var pinned = Object.keys(S.pinned).map(Number);
      if (only.checked && pinned.length) edges = edges.filter(function (e) {
        return S.pinned[S.E.s[e]] && S.pinned[S.E.t[e]]; });
      var nodes = S.N.x.map(function () { return false; });
      if (S.E.s.length) edges.forEach(function (e) { nodes[S.E.s[e]] = nodes[S.E.t[e]] = true; });
      else first.forEach(function (n) { nodes[n] = true; });
      target.concat(pinned).forEach(function (n) { nodes[n] = true; });
      // Weak ones first, so that strong ones lie on top.
      S.seen = {edges: edges.slice().reverse(), nodes: nodes, has: {}};
      edges.forEach(function (e) { S.seen.has[e] = true; });
      said.textContent = k.toLocaleString("en").replace(/,/g, "\u202f") + " of " + String(scored) + " " + word +
        ", " +
        (word === "edges" ? "effect" : "share") + " of at least " + shown(least) +
        (S.E.s.length && edges.length < k ? "; " + edges.length + " drawn" : "");
      slider.setAttribute("aria-valuetext", said.textContent);
    };
    S.around = function (n) { return byNode[n].filter(function (e) { return S.seen.has[e]; }).reverse(); };
    slider.addEventListener("input", S.rebuild);
    lead.addEventListener("change", S.rebuild);
    only.addEventListener("change", S.rebuild);
    lead.parentElement.hidden = !S.E.s.length;

    function look() {
      S.focus = S.selected !== null ? S.selected : S.hovered;
      S.redraw("over");
    }
    S.select = function (n, moves) {
      S.selected = n;
      S.hovered = null;
      tip.hidden = true;
      if (n !== null) { S.say(S.spoken(n)); if (moves) bring(n); } else S.say("Nothing is chosen.");
      S.showPanel();
      look();
    };
    S.pin = function (n) {
      if (S.pinned[n]) delete S.pinned[n]; else S.pinned[n] = true;
      S.say(S.label(n) + (S.pinned[n] ? " is pinned." : " is no longer pinned."));
      var list = Object.keys(S.pinned).map(Number), box = find("pc-list");
      pins.hidden = !list.length;
      if (!list.length) only.checked = false;
      box.textContent = "";
      list.forEach(function (m) {
        var chip = make("span"), open = make("button", "", S.label(m)), away = make("button", "", "×");
        open.type = away.type = "button";
        away.setAttribute("aria-label", "unpin " + S.label(m));
        open.addEventListener("click", function () { S.select(m, true); });
        away.addEventListener("click", function () { S.pin(m); });
        chip.append(open, away);
        box.append(chip);
      });
      if (S.selected !== null) S.showPanel();
      S.rebuild();
    };

    // Search: names, places, tokens that are read or predicted.
    var order = [], turn = -1;
    function matches() {
      var text = search.value.trim().toLowerCase();
      order = [];
      turn = -1;
      S.found = null;
      if (text) {
        S.found = {};
        S.N.x.forEach(function (_, n) {
          var column = data.columns[S.N.column[n]];
          if ([S.label(n), S.N.name[n], column.read, column.says].some(function (one) {
            return one.toLowerCase().indexOf(text) >= 0; })) { S.found[n] = true; order.push(n); }
        });
        order.sort(function (a, b) { return Math.abs(S.N.score[b] || 0) - Math.abs(S.N.score[a] || 0); });
      }
      hits.textContent = text ? (order.length === 1 ? "1 node" : order.length + " nodes") : "";
      S.redraw("over");
    }
    search.addEventListener("input", matches);
    search.addEventListener("keydown", function (event) {
      if (event.key === "Enter" && order.length) {
        event.preventDefault();
        turn = (turn + (event.shiftKey ? order.length - 1 : 1)) % order.length;
        S.select(order[turn], true);
      } else if (event.key === "Escape" && search.value) { event.stopPropagation(); event.preventDefault();
        search.value = ""; matches(); }
    });

    // The camera.
    function plot() { return [Math.max(60, S.width - LEFT - RIGHT), Math.max(60, S.height - TOP - BOTTOM)]; }
    function held() {
      var room = plot(), w = data.size[0] * S.scale, h = data.size[1] * S.scale, spare = 0.4 * S.scale + 8;
      S.dx = w + 2 * spare <= room[0] ? (room[0] - w) / 2 : Math.min(spare, Math.max(room[0] - w - spare, S.dx));
      S.dy = h + 2 * spare <= room[1] ? (room[1] - h) / 2 : Math.min(spare, Math.max(room[1] - h - spare, S.dy));
      // A finger scrolls the page up and down as long as all layers are in view.
      stage.style.touchAction = h + 2 * spare <= room[1] + 1 ? "pan-y" : "none";
    }
    S.fit = function () {
      var room = plot(), w = data.size[0] + 0.8, h = data.size[1] + 0.8;
      S.least = Math.min((room[0] - 16) / w, (room[1] - 16) / h, 46);
      // Never too small for a finger or an eye: then the target's end is what is seen first.
      S.scale = Math.max(S.least, Math.min(9, (room[1] - 16) / h), 5);
      S.dx = -1e9; S.dy = 1e9;
      var n = target.length ? target[target.length - 1] : 0;
      if (count) S.dx = room[0] * 0.9 - S.N.x[n] * S.scale;
      held();
      S.redraw("base");
    };
    S.zoom = function (factor, x, y) {
      var room = plot(), next = Math.max(Math.min(S.least, 5), Math.min(60, S.scale * factor));
      x = x === undefined ? room[0] / 2 : x - LEFT;
      y = y === undefined ? room[1] / 2 : y - TOP;
      S.dx = x - (x - S.dx) * next / S.scale;
      S.dy = y - (y - S.dy) * next / S.scale;
      S.scale = next;
      held();
      S.moved();
    };
    S.move = function (x, y) { S.dx += x; S.dy += y; held(); S.moved(); };
    function bring(n) {
      var room = plot(), x = S.N.x[n] * S.scale + S.dx, y = S.N.y[n] * S.scale + S.dy, edge = 24;
      if (x < edge || x > room[0] - edge) S.dx += room[0] / 2 - x;
      if (y < edge || y > room[1] - edge) S.dy += room[1] / 2 - y;
      held();
      S.redraw("base");
    }
    function resized() {
      var wide = Math.round(stage.clientWidth), full = document.fullscreenElement === root;
      if (!wide) return;
      var wanted = data.size[1] * Math.min(32, Math.max(9, (wide - LEFT - RIGHT - 16) / (data.size[0] + 0.8))) + TOP +
        BOTTOM + 30;
      var tall = full ? stage.parentElement.clientHeight : Math.round(Math.max(380, Math.min(700, wanted)));
      if (full && wide < 721) tall = Math.round(0.55 * window.innerHeight);
      if (wide === S.width && tall === S.height) return;
      S.width = wide; S.height = tall;
      stage.style.height = tall + "px";
      find("pc-side").style.maxHeight = full || getComputedStyle(find("pc-side")).borderTopWidth !== "0px" ? "" :
        tall + "px";
      S.fit();
    }
    find("pc-in").addEventListener("click", function () { S.zoom(1.35); });
    find("pc-out").addEventListener("click", function () { S.zoom(1 / 1.35); });
    find("pc-fit").addEventListener("click", S.fit);
    var full = find("pc-full");
    full.hidden = !root.requestFullscreen;
    full.addEventListener("click", function () {
      if (document.fullscreenElement) document.exitFullscreen();
      else root.requestFullscreen().catch(function () { S.say("This place has no full screen."); });
    });
    // What is seen, names, pins and all, as a picture: the lower canvas as bright as it is, the upper one over it.
    find("pc-save").addEventListener("click", function () {
      var both = document.createElement("canvas"), ctx = both.getContext("2d");
      both.width = S.base.width; both.height = S.base.height;
      ctx.fillStyle = S.colours.paper;
      ctx.fillRect(0, 0, both.width, both.height);
      ctx.globalAlpha = Number(S.base.style.opacity || 1);
      ctx.drawImage(S.base, 0, 0);
      ctx.globalAlpha = 1;
      ctx.drawImage(S.over, 0, 0);
      var link = make("a");
      link.download = "circuit.png";
      link.href = both.toDataURL("image/png");
      link.click();
    });

    // Pointer and fingers.
    function under(event) {
      var box = stage.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      var reach = Math.max(radius(S) + 4, event.pointerType === "touch" ? 20 : 9), best = null, least = reach * reach;
      if (x < LEFT - 6 || y < TOP - 8 || y > S.height - BOTTOM + 8) return null;
      for (var n = 0; n < count; n++) {
        var dx = px(S, n) - x, dy = py(S, n) - y, far = dx * dx + dy * dy + (S.seen.nodes[n] ? 0 : 30);
        if (far < least) { least = far; best = n; }
      }
      return best;
    }
    var down = {}, moved = 0, apart = 0;
    stage.addEventListener("pointerdown", function (event) {
      if (event.button) return;
      down[event.pointerId] = [event.clientX, event.clientY];
      moved = 0;
      apart = spread();
    });
    function spread() {
      var ids = Object.keys(down);
      return ids.length < 2 ? 0 : Math.hypot(down[ids[0]][0] - down[ids[1]][0], down[ids[0]][1] - down[ids[1]][1]);
    }
    stage.addEventListener("pointermove", function (event) {
      var before = down[event.pointerId], ids = Object.keys(down);
      if (!before) { hover(under(event), event); return; }
      var dx = event.clientX - before[0], dy = event.clientY - before[1];
      moved += Math.abs(dx) + Math.abs(dy);
      if (moved < 5 && ids.length < 2) return;
      if (!stage.hasPointerCapture(event.pointerId)) stage.setPointerCapture(event.pointerId);
      down[event.pointerId] = [event.clientX, event.clientY];
      stage.classList.add("pc-drags");
      tip.hidden = true;
      if (ids.length < 2) { S.move(dx, dy); return; }
      var now = spread(), box = stage.getBoundingClientRect();
      if (apart && now) S.zoom(now / apart, (down[ids[0]][0] + down[ids[1]][0]) / 2 - box.left,
        (down[ids[0]][1] + down[ids[1]][1]) / 2 - box.top);
      apart = now;
    });
    function lifted(event) {
      var was = down[event.pointerId];
      delete down[event.pointerId];
      apart = spread();
      stage.classList.remove("pc-drags");
      if (was && moved < 5 && event.type === "pointerup") {
        var n = under(event);
        S.select(n === S.selected ? null : n, false);
      }
    }
    stage.addEventListener("pointerup", lifted);
    stage.addEventListener("pointercancel", lifted);
    stage.addEventListener("pointerleave", function () { hover(null); });
    function hover(n, event) {
      if (event && event.pointerType === "touch") return;
      stage.classList.toggle("pc-over", n !== null);
      if (n !== S.hovered) { S.hovered = n; look(); }
      tip.hidden = n === null;
      if (n === null) return;
      tip.textContent = "";
      tip.append(S.tip(n));
      var x = px(S, n), y = py(S, n);
      tip.style.left = Math.max(4, Math.min(S.width - tip.offsetWidth - 4, x + 14)) + "px";
      tip.style.top = Math.max(4, Math.min(S.height - tip.offsetHeight - 4, y + 14)) + "px";
    }
    // The wheel scrolls the page; with Ctrl (as a trackpad's pinch has), or on the whole screen, it zooms; sideways
    // it moves.
    stage.addEventListener("wheel", function (event) {
      var box = stage.getBoundingClientRect(), zooms = event.ctrlKey || event.metaKey ||
        document.fullscreenElement === root;
      var across = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      if (zooms) { event.preventDefault();
        S.zoom(Math.exp(-0.004 * event.deltaY), event.clientX - box.left, event.clientY - box.top); }
      else if (Math.abs(across) > Math.abs(event.deltaY) || event.shiftKey) { event.preventDefault();
        S.move(-across, 0); }
    }, {passive: false});

    // Keys: arrows go to the nearest node in their direction.
    function nearest(n, right, up) {
      var best = null, least = Infinity;
      for (var m = 0; m < count; m++) {
        if (!S.seen.nodes[m] || m === n) continue;
        var dx = S.N.x[m] - S.N.x[n], dy = S.N.y[n] - S.N.y[m], along = right ? dx * right : dy * up,
          off = Math.abs(right ? dy : dx);
        if (along > 0.01 && along + 2.5 * off < least) { least = along + 2.5 * off; best = m; }
      }
      return best;
    }
    stage.addEventListener("keydown", function (event) {
      var turns = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (turns) {
        var next = S.selected === null ? (target.length ? target[target.length - 1] : 0) :
          nearest(S.selected, turns[0], turns[1]);
        if (next !== null && count) S.select(next, true);
      } else if (event.key === "Enter" || event.key === " ") { if (S.selected !== null) S.pin(S.selected); }
      else if (event.key === "+" || event.key === "=") S.zoom(1.35);
      else if (event.key === "-") S.zoom(1 / 1.35);
      else if (event.key === "0") S.fit();
      else if (event.key === "/") search.focus();
      else if (event.key === "Escape" && S.selected !== null) S.select(null, false);
      else return;
      event.preventDefault();
    });
    root.addEventListener("keydown", function (event) {
      if (event.key === "Escape" && !event.defaultPrevented && S.selected !== null &&
        !document.fullscreenElement) S.select(null, false);
    });

    S.choose();
    buckets(S);
    resized();
    new ResizeObserver(resized).observe(stage);
    document.addEventListener("fullscreenchange", function () { setTimeout(resized, 50); });
    function themed() { readColours(S); S.kept = null; S.redraw("base"); }
    matchMedia("(prefers-color-scheme:dark)").addEventListener("change", themed);
    new MutationObserver(themed).observe(document.body, {attributes: true,
      attributeFilter: ["data-jp-theme-light", "class"]});
  }
"""
