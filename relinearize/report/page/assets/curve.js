// The Pareto curve: our runs in colour, published points in grey.

// What can stand on the horizontal axis: of a run, of the network with all ReLUs.
const AXES = {
  count: { button: "count", name: "ReLU count", title: "ReLUs kept per image", of: (run) => run.budget.met, level: (one) => one.total, tick: short, published: true },
  percent: { button: "% of ReLUs", name: "share of ReLUs", title: "ReLUs kept, share of the network's own", of: (run) => (100 * run.budget.met) / run.budget.total, level: () => 100, tick: (value) => value + " %" },
  seconds: { button: "latency", name: "predicted latency", title: `predicted online latency, seconds per image: ${DATA.preset.name}`, of: (run) => run.predicted.seconds, level: (one) => one.predicted.seconds, tick: String, cost: true },
  megabytes: { button: "MB", name: "predicted traffic", title: `predicted online traffic, MB per image: ${DATA.preset.name}`, of: (run) => run.predicted.megabytes, level: (one) => one.predicted.megabytes, tick: String, cost: true },
};
const axesOf = (panel) => Object.entries(AXES).filter(([, axis]) => panel.runs.some((index) => isNumber(axis.of(DATA.runs[index]))));

const SHAPES = { // path of a marker of radius r around (0, 0), by what replaces a removed ReLU
  identity: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  quadratic: (r) => `M0,${-r * 1.2}L${r * 1.1},${r * 0.9}L${-r * 1.1},${r * 0.9}z`,
  polynomial: (r) => `M0,${r * 1.2}L${r * 1.1},${-r * 0.9}L${-r * 1.1},${-r * 0.9}z`,
  architecture: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  unknown: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
};
const DASHES = ["", "8 4", "2 3", "8 3 2 3"];
// A curve's look by its place among those of its colour: once all dashes are taken, the marker is another.
const dashes = (place) => DASHES[place % DASHES.length];
const curveMarker = (place, x, y, radius, look) => svg("path", { d: Object.values(SHAPES)[Math.floor(place / DASHES.length) % 4](radius), transform: `translate(${x},${y})`, ...look });
function marker(kind, x, y, radius) {
  const open = kind === "identity" || kind === "unknown";
  return svg("path", {
    d: SHAPES[kind](radius), transform: `translate(${x},${y})`, fill: open ? (kind === "unknown" ? "none" : "var(--card)") : "var(--grey)",
    stroke: "var(--grey)", "stroke-width": kind === "unknown" ? 2 : 1.3,
  });
}

function seriesPoints(series, kind) { // one entry per asked budget, by growing count
  const groups = grouped(series.runs.map((index) => DATA.runs[index]), (run) => run.budget.asked);
  return [...groups.values()].map((runs) => ({
    runs, relus: spread(runs.map((run) => run.budget.met)).mean, accuracy: spread(runs.map((run) => run.accuracy[kind])),
  })).sort((a, b) => a.relus - b.relus);
}

function placeNames(groups, dots, frame) { // greedy: each name beside the point where it covers least
  const taken = [], placed = [];
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `italic 10.5px ${getComputedStyle(document.body).fontFamily}`;
  const hits = (box, [x, y], pad) => x >= box.x - pad && x <= box.x + box.w + pad && y >= box.y - pad && y <= box.y + box.h + pad;
  const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  for (const { name, places } of groups) {
    const w = ruler.measureText(name).width, h = 11;
    let best = null;
    for (const [x, y] of places)
      for (const far of [1, 1.7, 2.6])
        for (const [sx, sy] of [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1], [1, -1], [-1, 1]]) {
          const gap = 7 * far;
          const box = { x: x + (sx > 0 ? gap : sx < 0 ? -gap - w : -w / 2), y: y + (sy > 0 ? gap : sy < 0 ? -gap - h : -h / 2), w, h };
          let cost = 0.5 * (far - 1);
          for (const dot of dots) if (hits(box, dot.at, 4)) cost += dot.weight;
          for (const other of taken) if (overlap(box, other)) cost += 6;
          if (box.x < frame.left || box.x + w > frame.right || box.y < frame.top || box.y + h > frame.bottom) cost += 40;
          if (!best || cost < best.cost) best = { cost, box };
        }
    taken.push(best.box);
    placed.push({ name, x: best.box.x, y: best.box.y + 9 });
  }
  return placed;
}

function drawCurve(holder, panel, state, select) {
  const width = Math.max(300, holder.clientWidth), narrow = width < 560;
  const height = Math.round(Math.min(540, Math.max(330, width * 0.47)));
  const frame = { left: narrow ? 38 : 50, right: width - 14, top: 24, bottom: height - 44 };
  const axis = AXES[state.axis];
  const placed = (points) => points.map((point) => ({ ...point, at: point.runs.every((run) => isNumber(axis.of(run))) ? spread(point.runs.map(axis.of)).mean : null })).filter((point) => point.at !== null);
  const series = panel.series.map((one, index) => ({ ...one, index, points: placed(seriesPoints(one, state.kind)) })).filter((one) => !state.off.has(one.id));
  const published = state.published && axis.published ? panel.published : [];
  const shown = new Set(series.map((one) => one.network));
  const levels = state.kind === "holdout" ? [] : panel.levels.filter((level) => shown.has(level.network));
  const xs = [], ys = [];
  for (const one of series) {
    for (const point of one.points) {
      if (!point.accuracy) continue;
      xs.push(point.at);
      for (const run of point.runs) if (isNumber(run.accuracy[state.kind])) ys.push(run.accuracy[state.kind]);
      if (point.accuracy.std) ys.push(point.accuracy.mean - point.accuracy.std, point.accuracy.mean + point.accuracy.std);
    }
  }
  for (const level of levels) { if (isNumber(axis.level(level))) xs.push(axis.level(level)); ys.push(level.accuracy.mean); }
  for (const point of published) { xs.push(point.relus); ys.push(point.accuracy); }
  if (!xs.length) { holder.replaceChildren(el("p", { class: "note" }, "No run here has this accuracy.")); return; }
  const [least, most] = [Math.min(...xs), Math.max(...xs)], log = !axis.cost || (least > 0 && most / least >= 4);
  const above0 = Math.min(most || 1, ...xs.filter((at) => at > 0)); // where a logarithmic axis begins; 0 stands at its left end
  const beside = (most - least || most || 1) * 0.05;
  const [xLow, xHigh] = log ? [above0 / (least > 0 ? 1.18 : 2), most * 1.18] : [Math.max(0, least - beside), most + beside];
  const room = Math.max(1, Math.max(...ys) - Math.min(...ys)) * 0.07;
  const yLow = Math.max(0, Math.min(...ys) - room), yHigh = Math.min(100.5, Math.max(...ys) + room);
  const x = scale(xLow, xHigh, frame.left, frame.right, log), y = scale(yLow, yHigh, frame.bottom, frame.top, false);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Accuracy against ${axis.name}` });

  for (const tick of linearTicks(yLow, yHigh, 7))
    root.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: frame.left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  for (const tick of log ? [...(least > 0 ? [] : [0]), ...logTicks(least && xLow || above0, xHigh, narrow ? 6 : 11)] : linearTicks(xLow, xHigh, narrow ? 5 : 9))
    root.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: frame.top, y2: frame.bottom }),
      svg("text", { x: x(tick), y: frame.bottom + 17, "text-anchor": "middle" }, axis.tick(tick)));
  root.append(svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
    svg("text", { class: "title", x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" },
      axis.title + (log ? " (log scale)" : xLow > 0 ? " (axis begins above 0)" : "")),
    svg("text", { class: "title", x: 0, y: 10 }, `${KINDS[state.kind]} accuracy (%)`));

  const targets = [], dots = [];
  const along = (a, b) => {
    const pieces = Math.max(2, Math.round(Math.hypot(b[0] - a[0], b[1] - a[1]) / 7));
    for (let i = 0; i <= pieces; i++) dots.push({ at: [a[0] + ((b[0] - a[0]) * i) / pieces, a[1] + ((b[1] - a[1]) * i) / pieces], weight: 3 });
  };
  const sorted = [...published].sort((a, b) => a.relus - b.relus);
  const groupsOf = (...names) => [...grouped(sorted, (point) => names.map((name) => point[name]).join("\n")).values()].map((points) => ({ ...points[0], places: points.map((point) => [x(point.relus), y(point.accuracy)]) }));
  for (const { places } of groupsOf("paper", "method", "backbone", "replacement"))
    root.append(svg("polyline", { class: "paper", points: places.map((place) => place.join(",")).join(" "), fill: "none", stroke: "var(--hair)" }));
  const groups = groupsOf("method", "replacement"); // a name each
  const namesOf = (method) => groups.filter((group) => group.method === method).length;
  for (const group of groups) group.name = namesOf(group.method) > 1 ? `${group.method} (${DATA.shortWords[group.replacement]})` : group.method;
  for (const point of published) {
    const at = [x(point.relus), y(point.accuracy)];
    root.append(marker(point.replacement, ...at, 3.6));
    dots.push({ at, weight: 1 });
    targets.push({ at, reach: 12, published: point });
  }
  for (const one of levels) {
    const level = y(one.accuracy.mean), at = [x(axis.level(one) ?? xHigh), level];
    root.append(svg("line", { x1: frame.left, x2: frame.right, y1: level, y2: level, stroke: "var(--ink)", "stroke-dasharray": "5 4", "stroke-width": 1.2, opacity: .75 }));
    if (isNumber(axis.level(one))) root.append(svg("rect", { x: -4.4, y: -4.4, width: 8.8, height: 8.8, transform: `translate(${at}) rotate(45)`, fill: "var(--ink)", stroke: "var(--card)" }));
    along([frame.left, level], [frame.right, level]);
    targets.push({ at, reach: 16, allRelu: one });
  }
  for (const one of series) {
    const colour = DATA.colours[one.method];
    const points = one.points.filter((point) => point.accuracy);
    const places = points.map((point) => [x(point.at), y(point.accuracy.mean)]);
    root.append(svg("polyline", { points: places.map((place) => place.join(",")).join(" "), fill: "none", stroke: colour, "stroke-width": 2.4, "stroke-linejoin": "round", "stroke-dasharray": dashes(one.dash) }));
    places.forEach((place, index) => {
      const point = points[index];
      if (index) along(places[index - 1], place);
      dots.push({ at: place, weight: 3 });
      if (point.accuracy.std) {
        const up = y(point.accuracy.mean + point.accuracy.std), down = y(point.accuracy.mean - point.accuracy.std);
        root.append(svg("path", { d: `M${place[0]},${up}V${down}M${place[0] - 4},${up}h8M${place[0] - 4},${down}h8`, stroke: colour, "stroke-width": 1.4 }));
      }
      for (const run of point.runs) {
        if (!isNumber(run.accuracy[state.kind])) continue;
        const at = [x(axis.of(run)), y(run.accuracy[state.kind])];
        if (point.runs.length > 1) root.append(svg("circle", { cx: at[0], cy: at[1], r: 2.6, fill: colour, opacity: .5 }));
        targets.push({ at, reach: 26, run, series: one, colour });
      }
      root.append(curveMarker(one.dash, ...place, 5, { fill: colour, stroke: "var(--card)", "stroke-width": 1.4 }));
      if (point.runs.length > 1) targets.push({ at: place, reach: 5, point, series: one, colour });
    });
  }
  const ordered = groups.sort((a, b) => a.places.length - b.places.length || (a.name < b.name ? -1 : 1));
  if (!narrow) for (const { name, x: left, y: base } of placeNames(ordered, dots, frame)) root.append(svg("text", { class: "name", x: left, y: base }, name));
  const chosen = targets.find((target) => target.run && target.run.key === state.selected);
  if (chosen) root.append(svg("circle", { cx: chosen.at[0], cy: chosen.at[1], r: 9.5, fill: "none", stroke: chosen.colour, "stroke-width": 1.8 }));
  const halo = svg("circle", { r: 8, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, visibility: "hidden" });
  root.append(halo);

  const nearest = (event) => {
    const box = root.getBoundingClientRect(), px = ((event.clientX - box.left) * width) / box.width, py = ((event.clientY - box.top) * height) / box.height;
    let best = null;
    for (const target of targets) {
      const distance = Math.hypot(target.at[0] - px, target.at[1] - py);
      if (distance <= target.reach && (!best || distance < best.distance - (target.run ? 0 : 0.01))) best = { distance, target };
    }
    return best && best.target;
  };
  root.addEventListener("pointermove", (event) => {
    const target = nearest(event);
    halo.setAttribute("visibility", target ? "visible" : "hidden");
    root.style.cursor = target && (target.run || target.point) ? "pointer" : "";
    if (!target) return tip.hide();
    halo.setAttribute("cx", target.at[0]);
    halo.setAttribute("cy", target.at[1]);
    tip.show(event, tipFor(target, state, panel));
  });
  root.addEventListener("pointerleave", () => { tip.hide(); halo.setAttribute("visibility", "hidden"); });
  root.addEventListener("click", (event) => {
    const target = nearest(event);
    if (target && (target.run || target.point)) select((target.run || target.point.runs[0]).key, true);
  });
  holder.replaceChildren(root);
}

const costText = (cost) => [significant(cost.seconds) + " s", isNumber(cost.megabytes) ? `${significant(cost.megabytes)} MB, ${whole(cost.messages)} messages` : null].filter(Boolean).join(", ");

function tipFor(target, state, panel) {
  if (target.published) {
    const point = target.published;
    return [el("b", {}, point.method), tip.rows([
      ["accuracy", percent(point.accuracy) + " %"], ["ReLUs", whole(point.relus)], ["published in", point.paper], ["network", point.backbone],
      ["replacement", DATA.words[point.replacement]], ["convention", point.convention], ["confidence", point.confidence], ["source", point.source]])];
  }
  if (target.allRelu) {
    const one = target.allRelu;
    return [el("b", {}, "all-ReLU network"), tip.rows([["network", one.label], ["test accuracy", spreadText(one.accuracy) + " %"], ["ReLUs", whole(one.total)], isNumber(one.predicted.seconds) ? [`predicted, ${DATA.preset.name}`, costText(one.predicted)] : null, ["trained networks", one.accuracy.n]])];
  }
  if (target.point) {
    const { runs, accuracy, relus } = target.point;
    return [el("b", {}, `${target.series.label}: ${spreadText(accuracy)} %`),
      tip.rows([["ReLUs met", `${whole(relus)} (${share(relus, target.series.total)})`], ...runs.map((run) => [`seed ${run.seed}`, percent(run.accuracy[state.kind]) + " %"])])];
  }
  const run = target.run;
  return [el("b", {}, run.name), tip.rows([
    ["test", percent(run.accuracy.test) + " %"], ["last epoch", percent(run.accuracy.test_last) + " %"], ["hold-out", percent(run.accuracy.holdout) + " %"],
    ["ReLUs met", `${whole(run.budget.met)} (${share(run.budget.met, run.budget.total)})`], ["asked", whole(run.budget.asked)],
    ["live sites", `${run.predicted.live} of ${run.sites.length}`], isNumber(run.predicted.seconds) ? [`predicted, ${DATA.preset.name}`, costText(run.predicted)] : null,
    ["seed", run.seed], ["data", panel.title], ["key", run.key.slice(0, 12)]]), el("span", { class: "faint" }, "click for details")];
}
