// Private inference: what was measured of the runs' networks, and what the predicted latency of each point is made of.

function costChart(rows, quantity, title) { // accuracy against a measured quantity; hollow: predicted from counts
  const width = 560, height = 300, frame = { left: 44, right: 546, top: 20, bottom: 258 };
  const places = rows.flatMap((row) => [row.measured[quantity], row.predicted ? row.predicted[quantity] : null]).filter(isNumber);
  const ys = rows.map((row) => row.accuracy), [least, most] = [Math.min(...places), Math.max(...places)];
  const log = least > 0 && most / least >= 4, beside = (most - least || most || 1) * 0.07;
  const [xLow, xHigh] = log ? [least / 1.25, most * 1.25] : [Math.max(0, least - beside), most + beside];
  const room = Math.max(1, Math.max(...ys) - Math.min(...ys)) * 0.09, [yLow, yHigh] = [Math.max(0, Math.min(...ys) - room), Math.min(100.5, Math.max(...ys) + room)];
  const x = scale(xLow, xHigh, frame.left, frame.right, log), y = scale(yLow, yHigh, frame.bottom, frame.top, false);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const tick of linearTicks(yLow, yHigh, 6))
    root.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }), svg("text", { x: frame.left - 7, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  for (const tick of log ? logTicks(xLow, xHigh, 8) : linearTicks(xLow, xHigh, 7))
    root.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: frame.top, y2: frame.bottom }), svg("text", { x: x(tick), y: frame.bottom + 16, "text-anchor": "middle" }, String(tick)));
  root.append(svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
    svg("text", { class: "title", x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" }, title + (log ? " (log scale)" : xLow > 0 ? " (axis begins above 0)" : "")));
  for (const group of grouped(rows, (row) => row.curve.label).values()) {
    const { colour, dash } = group[0].curve, mean = (seeds, of) => spread(seeds.map(of)).mean; // the line joins means over seeds
    const points = [...grouped(group, (row) => row.curve.point)].sort(([a], [b]) => a - b).map(([, seeds]) => [mean(seeds, (row) => row.measured[quantity]), mean(seeds, (row) => row.accuracy)]);
    root.append(svg("polyline", { points: points.map(([cost, accuracy]) => `${x(cost)},${y(accuracy)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dashes(dash) }));
    for (const row of group) {
      const show = (event) => tip.show(event, el("b", {}, `${row.name}, ${row.setting}`), tip.rows(DATA.inferences.columns.slice(1).map((name, index) => [name, row.cells[index + 1]])));
      const dots = [[row.measured[quantity], { fill: colour, stroke: "var(--card)" }]];
      if (row.predicted) dots.push([row.predicted[quantity], { fill: "var(--card)", stroke: colour }]);
      for (const [at, look] of dots) root.append(curveMarker(dash, x(at), y(row.accuracy), 5, { "stroke-width": 1.6, ...look, onpointermove: show, onpointerleave: () => tip.hide() }));
    }
  }
  return el("div", { class: "chart" }, root);
}

function layerTable(row) { // one run's inference by layer, folded
  const kind = (index) => (index < 2 ? "text" : null), columns = DATA.inferences.layerColumns;
  return el("details", {}, el("summary", {}, `${row.name}, ${row.setting}: by layer, ${row.layersAre}`), el("div", { class: "scroll" }, grid({ class: "measured" },
    columns.map((name, index) => el("th", { class: kind(index) }, name)), row.layers.map((cells) => el("tr", {}, cells.map((text, index) => el("td", { class: kind(index) }, text)))))));
}

function measuredParts(rows) {
  const { columns, kinds } = DATA.inferences, drawn = rows.filter((row) => row.curve);
  const look = (index) => ({ class: [0, 3, 4].includes(index) ? "text" : null });
  const legend = [...new Map(drawn.map((row) => [row.curve.label, row.curve])).values()];
  const open = (row) => (row.run && byKey.has(row.run) ? () => select(row.run, true) : null);
  const bars = (title, unit, quantity) => el("div", {}, el("h3", {}, title), stackedBars({ parts: kinds, unit, rows: rows.map((row) => ({ label: row.curve ? `${row.curve.label}, ${short(row.relus)}` : `${row.name}, ${row.setting}`, name: `${row.name}, ${row.setting}`, lengths: row[quantity], open: open(row) })) }));
  return [
    el("h3", {}, "Measured: test accuracy (%, in plaintext) against what one image took"),
    el("div", { class: "small-legend" }, legend.map((curve) => el("span", {}, svg("svg", { width: 24, height: 8 }, svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, stroke: curve.colour, "stroke-width": 2.4, "stroke-dasharray": dashes(curve.dash) }), curveMarker(curve.dash, 12, 4, 3.2, { fill: curve.colour })), curve.label)),
      drawn.some((row) => row.predicted) ? el("span", {}, svg("svg", { width: 12, height: 12 }, svg("circle", { cx: 6, cy: 6, r: 4.4, fill: "none", stroke: "var(--soft)", "stroke-width": 1.5 })), "hollow: predicted from counts, without the engine") : null),
    drawn.length ? el("div", { class: "pair-free" }, costChart(drawn, "megabytes", "steady traffic, MB per image"), costChart(drawn, "seconds", "steady latency, seconds per image")) : el("p", { class: "note" }, "The accuracy of these networks is not known."),
    el("div", { class: "block pair-free" }, bars("Measured traffic by kind of operation", "MB", "bytes"), bars("Measured latency by kind of operation", "s", "seconds")),
    el("div", { class: "block" }, el("h3", {}, "Measured inferences"), el("div", { class: "scroll" }, grid({ class: "measured" },
      columns.map((name, index) => el("th", look(index), name)), rows.map((row) => el("tr", { title: row.security }, row.cells.map((text, index) => el("td", look(index), text)))))),
      el("p", { class: "note" }, "Steady: after the first inference, which pays for the protocol's set-up. By the model: T_loopback + messages × RTT/2 + bytes / rate, from what was measured without delay. Predicted: from counts alone. Largest error: of a logit against plaintext, as a share of the largest. Seconds of a kind of operation: of the party that took longer, so that together they can be a little more than the latency. Where the load was above the number of cores, seconds say little; bytes are exact."),
      rows.filter((row) => row.layers).map(layerTable)),
  ];
}

function predictedParts(one) {
  const rows = one.series.flatMap((series) => seriesPoints(series, "test").reverse().filter((point) => point.runs.every((run) => isNumber(run.predicted.seconds))).map((point) => ({
    mark: dot(DATA.colours[series.method]), label: `${series.label}, ${short(point.relus)}`, name: `${series.label}, ${whole(point.relus)} ReLUs`, open: () => select(point.runs[0].key, true),
    lengths: Object.fromEntries(Object.keys(DATA.preset.parts).map((part) => [part, spread(point.runs.map((run) => run.predicted[part])).mean])),
  })));
  return rows.length ? [el("h3", {}, `Predicted: what the latency is made of, ${DATA.preset.name}`), stackedBars({ rows, parts: DATA.preset.parts, unit: "s" })] : [];
}

function drawPrivate() {
  const one = panel(), rows = DATA.inferences ? DATA.inferences.rows.filter((row) => row.title === null || row.title === one.title) : [];
  const measured = rows.length ? measuredParts(rows) : [], predicted = predictedParts(one);
  $("private").hidden = !measured.length && !predicted.length;
  $("h-private").textContent = `Private inference, ${one.title}`;
  $("private-sub").textContent = `Predictions: ${DATA.preset.name}: ${DATA.preset.text}; one image, online`;
  $("private-measured").replaceChildren(...measured);
  $("private-predicted").className = measured.length ? "block" : "";
  $("private-predicted").replaceChildren(...predicted);
}
