// One run: its numbers, the ReLUs each site keeps, the training curves of its stages, its config.

function lineChart({ title, lines, log = false, level = null, unit = "" }) {
  const width = 320, height = 168, frame = { left: 42, right: 312, top: 10, bottom: 142 };
  const usable = lines.map((line) => ({ ...line, dots: line.x.map((at, i) => [at, line.y[i]]).filter(([, v]) => isNumber(v) && (!log || v > 0)) })).filter((line) => line.dots.length);
  if (!usable.length) return null;
  const all = usable.flatMap((line) => line.dots);
  let [low, high] = [Math.min(...all.map((d) => d[1])), Math.max(...all.map((d) => d[1]))];
  if (level !== null && (!log || level > 0)) { low = Math.min(low, level); high = Math.max(high, level); }
  if (log) { low /= 1.15; high *= 1.15; } else {
    const room = (high - low || Math.abs(high) * 0.1 || 1) * 0.08;
    low = low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
  }
  const first = Math.min(...all.map((d) => d[0])), last = Math.max(...all.map((d) => d[0]));
  const x = first === last ? () => (frame.left + frame.right) / 2 : scale(first, last, frame.left, frame.right, false);
  const y = scale(low, high, frame.bottom, frame.top, log);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  let ticks = log ? logTicks(low, high, 5) : linearTicks(low, high, 4);
  if (log && ticks.length < 2) ticks = [low * 1.15, high / 1.15];
  for (const tick of ticks)
    root.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }), svg("text", { x: frame.left - 6, y: y(tick) + 4, "text-anchor": "end" }, compact(tick)));
  for (const tick of linearTicks(first, last, 5).filter(Number.isInteger))
    root.append(svg("text", { x: x(tick), y: frame.bottom + 15, "text-anchor": "middle" }, String(tick)));
  root.append(svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
  if (level !== null && level >= low) root.append(svg("line", { x1: frame.left, x2: frame.right, y1: y(level), y2: y(level), stroke: "var(--ink)", "stroke-dasharray": "4 3", opacity: .6 }));
  for (const line of usable) {
    root.append(svg("polyline", { points: line.dots.map((d) => `${x(d[0]).toFixed(1)},${y(d[1]).toFixed(1)}`).join(" "), fill: "none", stroke: line.colour, "stroke-width": 1.9, "stroke-linejoin": "round" }));
    if (line.dots.length < 3) for (const d of line.dots) root.append(svg("circle", { cx: x(d[0]), cy: y(d[1]), r: 2.6, fill: line.colour }));
  }
  const cursor = svg("line", { y1: frame.top, y2: frame.bottom, stroke: "var(--faint)", visibility: "hidden" });
  root.append(cursor);
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect(), px = ((event.clientX - box.left) * width) / box.width;
    const at = all.reduce((best, d) => (Math.abs(x(d[0]) - px) < Math.abs(x(best) - px) ? d[0] : best), all[0][0]);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    tip.show(event, el("b", {}, `epoch ${compact(at)}`), tip.rows(usable.map((line) => {
      const hit = line.dots.find((d) => d[0] === at);
      return hit ? [line.name, (Math.abs(hit[1]) >= 10000 ? whole(hit[1]) : compact(hit[1])) + unit] : null;
    })));
  });
  root.addEventListener("pointerleave", () => { tip.hide(); cursor.setAttribute("visibility", "hidden"); });
  const named = usable.length > 1 || level !== null;
  const legend = el("div", { class: "small-legend" }, named ? usable.map((line) => el("span", {}, el("i", { style: { background: line.colour } }), line.name)) : null,
    level !== null ? el("span", {}, `dashed: budget ${short(level)}`) : null);
  return el("figure", { style: { margin: "0" } }, el("h3", {}, title), legend, el("div", { class: "chart" }, root));
}

const LINE_COLOURS = ["#2f6fde", "#e07020", "#0f9d76", "#a556c9", "#d33f6a", "#1596b4", "#8a7a12"];
function stageCharts(history, budget) {
  const { epoch, ...columns } = history;
  if (!epoch || !epoch.length) return [];
  const line = (name, index) => ({ name, x: epoch, y: columns[name], colour: /^(val|test)\//.test(name) ? LINE_COLOURS[1] : LINE_COLOURS[index % LINE_COLOURS.length] });
  const names = Object.keys(columns).filter((name) => !isSiteColumn(name)), used = new Set(["lr", "seconds"]);
  const take = (test) => names.filter((name) => !used.has(name) && test(name)).map((name) => (used.add(name), name));
  const parts = (list) => list.map((name, index) => ({ ...line(name, index), colour: LINE_COLOURS[index % LINE_COLOURS.length] }));
  const charts = [
    { title: "Accuracy (%)", lines: take((name) => /accuracy/.test(name)).map((name) => line(name, 0)) },
    { title: "Loss", lines: take((name) => /(^|\/)loss$/.test(name)).map((name) => line(name, 0)) },
    { title: "ReLUs left", lines: take((name) => name === "relu/count").map(line), level: budget },
    { title: "Lasso weight (log)", lines: take((name) => name === "lasso").map(line), log: true },
    { title: "Loss terms (log)", lines: parts(take((name) => name.startsWith("train/"))), log: true },
  ];
  for (const name of names.filter((other) => !used.has(other))) charts.push({ title: name, lines: [line(name, 0)] });
  return charts.filter((chart) => chart.lines.length).map(lineChart).filter(Boolean);
}

function siteBars(run, mode, other) {
  const most = Math.max(...run.sites.map((site) => site.total));
  const length = { share: (n, total) => n / total, count: (n) => n / most, log: (n) => Math.log10(n + 1) / Math.log10(most + 1) }[mode];
  const wide = (value) => (100 * Math.min(1, value)).toFixed(2) + "%";
  return run.sites.map((site, index) => {
    const rival = other && other.sites[index] && other.sites[index].total === site.total ? other.sites[index] : null;
    return el("div", { class: "bar", title: `${site.name}, ${site.shape.join(" × ")}: ${whole(site.kept)} of ${whole(site.total)} kept` },
      el("code", {}, site.name),
      el("div", { class: "room" }, el("div", { class: "track", style: { width: wide(length(site.total, site.total)) } }),
        site.kept ? el("div", { class: "fill", style: { width: wide(length(site.kept, site.total)), background: DATA.colours[run.method.name] } }) : null,
        rival ? el("div", { class: "mark", style: { left: wide(length(rival.kept, site.total)) }, title: `${other.name}: ${whole(rival.kept)}` }) : null),
      el("div", { class: "value" }, whole(site.kept), el("span", { class: "faint of" }, ` / ${short(site.total)}`), el("span", { class: "faint" }, ` · ${share(site.kept, site.total)}`)));
  });
}

function drawDetails(holder, run, panel, state, redraw) {
  if (!run) { holder.replaceChildren(el("p", { class: "note" }, "No run selected.")); return; }
  const fact = (name, value, title) => el("div", title ? { title } : {}, el("span", {}, name), el("b", {}, value));
  const worstClass = (found) => Math.min(...found.per_class.filter(isNumber));
  const beside = (of) => [run.accuracy.predictions, run.accuracy.teacher_predictions].filter(Boolean).map((found) => percent(of(found))).join(" / ") + " %";
  const own = run.stages.filter((stage) => !stage.reused).reduce((sum, stage) => sum + stage.seconds, 0);
  const accuracy = run.accuracy, narrow = run.narrower; // the search was of all channels
  const others = panel.runs.map((index) => DATA.runs[index]).filter((other) => other.key !== run.key && other.sites.length === run.sites.length);
  const rival = others.find((other) => other.key === state.rival) || null;
  const table = (pairs) => el("table", {}, el("tbody", {}, pairs.map(([name, value]) => el("tr", {}, el("td", { class: "text" }, name), el("td", { class: "text", style: { whiteSpace: "normal", overflowWrap: "anywhere" } }, value)))));
  const copy = el("button", { type: "button", class: "chip", onclick: () => { navigator.clipboard?.writeText(run.config); copy.textContent = "copied"; setTimeout(() => { copy.textContent = "copy"; }, 1200); } }, "copy");
  // An element drops null children; replaceChildren itself would write the word.
  holder.replaceChildren(el("div", {},
    el("div", { class: "head" }, el("div", {},
      el("h2", {}, dot(DATA.colours[run.method.name]), " ", run.name || "(no name)"),
      el("p", { class: "sub" }, `${panel.title} · ${run.network} · ${run.method.teacher} → ${run.method.search} → ${run.method.finetune} · replacement: ${run.replacement}${run.unit ? ` · removed: ${run.unit}` : ""}`))),
    el("div", { class: "facts" },
      fact("test accuracy", percent(accuracy.test) + " %", `${accuracy.n_test} images; weights chosen by: ${accuracy.selection}, epoch ${accuracy.selected_epoch ?? MISSING}`),
      fact("last epoch", percent(accuracy.test_last) + " %"),
      fact("hold-out", isNumber(accuracy.holdout) ? percent(accuracy.holdout) + " %" : "none", `${accuracy.n_holdout} images`),
      fact("all-ReLU network", percent(accuracy.teacher_test) + (isNumber(accuracy.teacher_test) ? " %" : "")),
      fact("difference", signed(difference(run))),
      ...(accuracy.predictions ? [
        fact("worst class", beside(worstClass), "percent of its test images; the all-ReLU network's behind it"),
        fact("calibration error", beside((found) => found.ece), "ECE in percent, 15 bins; the all-ReLU network's behind it"),
      ] : []),
      fact("ReLUs met", whole(run.budget.met), `asked: ${whole(run.budget.asked)}, of ${whole(run.budget.total)}`),
      fact("asked", narrow ? whole(run.budget.asked) + " of all channels" : run.budget.met === run.budget.asked ? "met exactly" : whole(run.budget.asked)),
      fact("share kept", share(run.budget.met, run.budget.total)),
      fact("live sites", `${run.predicted.live} of ${run.sites.length}`, "sites that keep any ReLU"),
      fact(`predicted, ${DATA.preset.name}`, isNumber(run.predicted.seconds) ? significant(run.predicted.seconds) + " s" : MISSING, DATA.preset.text),
      DATA.preset.network ? fact("traffic, both ways", isNumber(run.predicted.megabytes) ? significant(run.predicted.megabytes) + " MB" : MISSING, DATA.preset.text) : null,
      fact("seed", String(run.seed)),
      fact("training time", duration(runSeconds(run)), `new in this run: ${duration(own)}`),
      fact("created", run.created.slice(0, 10), run.created),
      fact("key", run.key.slice(0, 12), run.key)),
    run.budget.reached ? null : el("p", { class: "note warn" }, "The search ended before it came down to this budget; the mask is its projection."),
    el("div", { class: "block" },
      el("div", { class: "head" }, el("h3", {}, "ReLUs kept at each site"), el("div", { class: "controls" },
        el("select", { "aria-label": "Compare with another run", style: { maxWidth: "260px" }, onchange: (event) => { state.rival = event.target.value; redraw(); } },
          el("option", { value: "" }, "compare with…"), others.map((other) => el("option", { value: other.key, selected: rival === other }, other.name))),
        segments([["share", "share"], ["count", "count"], ["log", "log count"]], state.sites, (mode) => { state.sites = mode; redraw(); }, "Bar length"))),
      siteBars(run, state.sites, rival), rival ? el("p", { class: "note" }, `Upright marks: ${rival.name}`) : null),
    el("div", { class: "block" }, el("h3", {}, "Training"), run.stages.map((stage) => {
      const charts = stageCharts(DATA.histories[stage.history], stage.name === "search" && !narrow ? run.budget.asked : null);
      return el("div", { class: "stage" },
        el("p", { class: "sub", style: { marginBottom: "8px" } }, el("b", { style: { color: "var(--ink)" } }, stage.name), `${run.method[stage.name] ? ` · ${run.method[stage.name]}` : ""} · ${stage.epochs} epochs · ${duration(stage.seconds)}`, stage.reused ? " · taken from the store" : "", el("span", { class: "faint", title: stage.key }, ` · ${stage.key.slice(0, 12)}`)),
        charts.length ? el("div", { class: "grids" }, charts, stage.name === "search" && !narrow ? siteTrajectory(DATA.histories[stage.history], run.sites) : null) : el("p", { class: "note" }, "No epochs were recorded for this stage."));
    })),
    el("div", { class: "block wide" },
      el("details", { open: true }, el("summary", {}, "Config "), el("div", { style: { position: "relative" } }, el("div", { style: { position: "absolute", right: "8px", top: "8px" } }, copy), el("pre", {}, run.config))),
      el("div", {}, el("h3", {}, "Made with"), table([
        ["hardware", `${run.hardware.accelerator}: ${run.hardware.name}`], ["threads", run.hardware.threads ?? MISSING], ["precision", run.hardware.precision],
        ...Object.entries(run.versions), ["git commit", run.git_commit ?? MISSING], ["data fingerprint", run.dataset.fingerprint.slice(0, 16)],
        ["images", `${whole(run.dataset.train)} train, ${whole(run.dataset.holdout)} hold-out, ${whole(run.dataset.test)} test`], ["record", run.path]])))));
}
