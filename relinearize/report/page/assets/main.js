// State, and what is drawn anew when it changes.
const state = {
  panel: 0, kind: "test", axis: "count", published: true, off: new Set(), filter: "", sites: "share", rival: "", heat: "",
  selected: null, sort: { column: 3, direction: -1 },
};
const panel = () => DATA.panels[state.panel];
const byKey = new Map(DATA.runs.map((run) => [run.key, run]));

DATA.panels.forEach((one, index) => {
  const used = {};
  one.series.forEach((series, position) => {
    series.id = `${index}/${position}`;
    const colour = DATA.colours[series.method]; // several methods may have it
    series.dash = used[colour] = (used[colour] ?? -1) + 1;
  });
});

function drawTop() {
  $("summary").textContent = DATA.summary;
  $("panels").replaceChildren(...(DATA.panels.length < 2 ? [] : DATA.panels.map((one, index) =>
    el("button", { type: "button", "aria-pressed": String(index === state.panel), onclick: () => { openPanel(index); drawAll(); } }, one.title))));
  const runs = panel().runs.map((index) => DATA.runs[index]);
  const budgeted = runs.filter((run) => !run.narrower), exact = budgeted.filter((run) => run.budget.met === run.budget.asked).length;
  const means = panel().series.flatMap((series) => seriesPoints(series, "test").filter((point) => point.runs.every((run) => isNumber(difference(run))))
    .map((point) => ({ method: series.method, total: series.total, relus: point.relus, difference: spread(point.runs.map(difference)).mean })));
  const fewest = means.sort((a, b) => a.relus / a.total - b.relus / b.total);
  const margin = [1, 2, 3, 5].find((points) => fewest.some((point) => point.difference >= -points)) ?? 10;
  const within = fewest.find((point) => point.difference >= -margin);
  const tile = (title, value, note) => el("div", { class: "tile" }, el("span", {}, title), el("b", {}, value), el("small", {}, note));
  const counts = runs.map((run) => run.budget.met), seeds = new Set(runs.map((run) => run.seed)).size;
  const levels = panel().levels, heights = levels.map((one) => one.accuracy.mean);
  const totals = [...new Set(panel().series.map((one) => short(one.total)))];
  $("tiles").replaceChildren(
    tile("Runs", String(runs.length), `${panel().series.length} curve${panel().series.length > 1 ? "s" : ""}, ${seeds} seed${seeds > 1 ? "s" : ""}`),
    tile("Budgets met exactly", `${exact} of ${budgeted.length}`, counts.length > 1 ? `${short(Math.min(...counts))} to ${short(Math.max(...counts))} ReLUs` : `${short(counts[0])} ReLUs`),
    tile(levels.length > 1 ? "All-ReLU networks" : "All-ReLU network",
      levels.length > 1 ? `${Math.min(...heights).toFixed(1)} to ${Math.max(...heights).toFixed(1)} %` : levels.length ? spreadText(levels[0].accuracy) + " %" : MISSING, `${totals.join(", ")} ReLUs`),
    tile(`Fewest ReLUs within ${margin} point${margin > 1 ? "s" : ""}`, within ? short(within.relus) : MISSING, within ? `${share(within.relus, within.total)} of the network's, ${within.method}` : "no point so close to the all-ReLU network"),
  );
}

function drawCurveCard() {
  const one = panel();
  const networks = [...new Set(one.series.map((series) => series.network))];
  const axes = axesOf(one);
  if (!axes.some(([key]) => key === state.axis)) state.axis = "count";
  $("h-curve").textContent = `Accuracy against ${AXES[state.axis].name}, ${one.title}`;
  $("curve-sub").textContent = networks.length === 1 ? networks[0] : `${networks.length} networks`;
  const kinds = Object.entries(KINDS).filter(([kind]) => one.runs.some((index) => isNumber(DATA.runs[index].accuracy[kind])));
  if (!kinds.some(([kind]) => kind === state.kind)) state.kind = kinds.length ? kinds[0][0] : "test";
  const change = (name) => (value) => { state[name] = value; drawCurveCard(); };
  $("curve-controls").replaceChildren(
    kinds.length > 1 ? segments(kinds.map(([kind]) => [kind, { test: "test", test_last: "last epoch", holdout: "hold-out" }[kind]]), state.kind, change("kind"), "Accuracy") : "",
    segments(axes.map(([key, axis]) => [key, axis.button]), state.axis, change("axis"), "Horizontal axis"),
    one.published.length ? el("label", { class: "toggle" }, el("input", { type: "checkbox", checked: state.published && state.axis === "count", disabled: state.axis !== "count", onchange: (event) => change("published")(event.target.checked) }), "published points") : "");
  const flip = (id) => { if (state.off.has(id)) state.off.delete(id); else state.off.add(id); drawCurveCard(); };
  const drawn = state.published && state.axis === "count" ? Object.keys(SHAPES).filter((kind) => one.published.some((point) => point.replacement === kind)) : [];
  $("legend").replaceChildren(
    ...one.series.map((series) => el("button", { type: "button", "aria-pressed": String(!state.off.has(series.id)), title: "Show or hide", onclick: () => flip(series.id) },
      svg("svg", { width: 26, height: 12 }, svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: DATA.colours[series.method], "stroke-width": 2.4, "stroke-dasharray": dashes(series.dash) }), curveMarker(series.dash, 13, 6, 4.2, { fill: DATA.colours[series.method] })), series.label)),
    one.levels.length && state.kind !== "holdout" ? el("span", { class: "key" }, svg("svg", { width: 26, height: 12 }, svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: "var(--ink)", "stroke-dasharray": "5 4" }), svg("rect", { x: -3.6, y: -3.6, width: 7.2, height: 7.2, transform: "translate(13,6) rotate(45)", fill: "var(--ink)" })), "all-ReLU network") : "",
    ...drawn.map((kind) => el("span", { class: "key" }, svg("svg", { width: 12, height: 12 }, marker(kind, 6, 6, 3.6)), `published: ${DATA.words[kind]}`)));
  const several = one.series.some((series) => seriesPoints(series, state.kind).some((point) => point.runs.length > 1));
  $("curve-note").textContent = [
    several ? "Large dots: mean over seeds, bars: sample standard deviation, small dots: single runs." : "",
    "Hover for the run behind a dot, click to open it.",
    AXES[state.axis].cost ? `Predicted from counts for ${DATA.preset.name}: ${DATA.preset.text}.` : "",
    drawn.length ? "Grey: the papers' own numbers, on their own networks and recipes; thin grey lines join one paper's points of one network." : "",
  ].filter(Boolean).join(" ");
  drawCurve($("curve"), one, state, select);
  $("points-sub").textContent = `${KINDS[state.kind]} accuracy in percent, mean ± standard deviation over seeds`;
  $("points").replaceChildren(pointsTable(one, state));
}

function drawHeat() {
  const series = panel().series;
  // Many or long column titles need the whole width.
  document.querySelector(".pair").classList.toggle("stack", series.length > 3 || series.some((one) => one.label.length > 22));
  const views = heatViews(series);
  // At first the smallest of the budgets that most methods were given.
  const widest = views.filter((one) => one.across).reduce((one, other) => (one && one.columns.length > other.columns.length ? one : other), null);
  const view = views.find((one) => one.key === state.heat) ?? widest ?? views[0];
  const option = (one) => el("option", { value: one.key, selected: one === view }, one.text);
  const [curves, budgets] = [false, true].map((across) => views.filter((one) => one.across === across).map(option));
  $("heat-controls").replaceChildren(views.length > 1 ? el("select", { "aria-label": "Columns", style: { maxWidth: "min(100%, 480px)" }, onchange: (event) => { state.heat = event.target.value; drawHeat(); } },
    el("optgroup", { label: "all budgets of" }, curves), budgets.length ? el("optgroup", { label: "all methods at" }, budgets) : null) : "");
  $("heat").replaceChildren(heatTable(view.columns));
}

const drawTable = () => drawRuns($("runs"), panel(), state, select, drawTable);
const drawRun = () => drawDetails($("details"), byKey.get(state.selected), panel(), state, drawRun);

function select(key, move) {
  state.selected = key;
  history.replaceState(null, "", "#run=" + key);
  drawCurve($("curve"), panel(), state, select);
  drawTable();
  drawRun();
  if (move) $("details").scrollIntoView({ block: "start" });
}

function openPanel(index, key = null) {
  state.panel = index;
  state.heat = "";
  state.rival = "";
  const runs = panel().runs.map((position) => DATA.runs[position]);
  state.selected = key ?? runs.reduce((best, run) => ((run.accuracy.test ?? -1) > (best.accuracy.test ?? -1) ? run : best)).key;
}

function drawAll() {
  drawTop();
  drawCurveCard();
  drawHeat();
  drawMasks();
  drawSearches();
  drawPrivate();
  drawTable();
  drawRun();
}

const asked = byKey.get(new URLSearchParams(location.hash.slice(1)).get("run"));
if (asked) openPanel(DATA.panels.findIndex((one) => one.runs.some((index) => DATA.runs[index] === asked)), asked.key);
else openPanel(0);
$("filter").addEventListener("input", (event) => { state.filter = event.target.value; drawTable(); });
drawAll();
let drawnWidth = $("curve").clientWidth;
new ResizeObserver(() => {
  if ($("curve").clientWidth === drawnWidth) return;
  drawnWidth = $("curve").clientWidth;
  drawCurve($("curve"), panel(), state, select);
}).observe($("curve"));
