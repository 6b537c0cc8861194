// Tables: accuracy at each budget, where the ReLUs stay, and the runs.

function pointsTable(panel, state) {
  const columns = panel.series.map((one) => ({ one, points: new Map(seriesPoints(one, state.kind).map((point) => [point.runs[0].budget.asked, point])) }));
  const budgets = [...new Set(columns.flatMap(({ points }) => [...points.keys()]))].sort((a, b) => b - a);
  const totals = new Set(panel.series.map((one) => one.total));
  const shares = totals.size === 1 && !panel.runs.some((index) => DATA.runs[index].narrower); // of what was asked
  const head = [el("th", { class: "text" }, "ReLUs asked"), shares ? el("th", {}, "share") : null,
    columns.map(({ one }) => el("th", {}, dot(DATA.colours[one.method]), " ", one.label))];
  const rows = budgets.map((asked) => {
    const cells = columns.map(({ points }) => points.get(asked));
    const best = Math.max(...cells.map((point) => (point && point.accuracy ? point.accuracy.mean : -1)));
    return el("tr", {}, el("td", { class: "text" }, whole(asked)), shares ? el("td", { class: "faint" }, share(asked, [...totals][0])) : null,
      cells.map((point) => {
        if (!point || !point.accuracy) return el("td", { class: "faint" }, MISSING);
        const text = spreadCell(point.accuracy);
        const strong = columns.length > 1 && point.accuracy.mean === best;
        const n = point.accuracy.n;
        return el("td", { title: `${n} run${n > 1 ? "s" : ""}` }, strong ? el("b", {}, text) : text);
      }));
  });
  // The all-ReLU networks that a column's own runs were made from.
  const teachers = columns.map(({ one }) => {
    const distinct = new Map(one.runs.map((index) => DATA.runs[index]).map((run) => [run.teacher, run.accuracy.teacher_test]));
    return spread([...distinct.values()]);
  });
  if (teachers.some(Boolean) && state.kind !== "holdout")
    rows.unshift(el("tr", {}, el("td", { class: "text" }, totals.size === 1 ? el("span", { title: "all ReLUs" }, whole([...totals][0])) : "all ReLUs"), shares ? el("td", { class: "faint" }, "100 %") : null,
      teachers.map((level) => el("td", {}, spreadCell(level)))));
  return grid({}, head, rows);
}

const spreadCell = (value) => (value ? [value.mean.toFixed(2), value.std === null ? null : el("small", {}, ` ±${value.std.toFixed(2)}`)] : MISSING);

function heatViews(series) { // the budgets of each curve, then, where several were given it, all curves at each budget
  const points = series.map((one) => seriesPoints(one, "test").reverse());
  const views = series.map((one, index) => ({ key: "curve " + index, across: false, text: one.label,
    columns: points[index].map((point) => ({ title: short(point.relus), runs: point.runs, colour: DATA.colours[one.method] })) }));
  const layout = (runs) => JSON.stringify(runs[0].sites.map((site) => [site.name, site.total]));
  const all = series.flatMap((one, index) => points[index].map(({ runs }) => ({
    title: one.label.replace(`, ${one.network}`, ""), network: one.network, runs, colour: DATA.colours[one.method],
  })));
  const shared = grouped(all, ({ runs }) => `${runs[0].budget.asked} ${layout(runs)}`);
  const budgets = [...shared].filter(([, columns]) => columns.length > 1).sort((a, b) => b[1][0].runs[0].budget.asked - a[1][0].runs[0].budget.asked);
  const name = (columns) => [whole(columns[0].runs[0].budget.asked) + " ReLUs", ...(new Set(series.map((one) => one.network)).size > 1 ? new Set(columns.map((one) => one.network)) : [])].join(", ");
  return [...views, ...budgets.map(([key, columns]) => ({ key: "budget " + key, across: true, text: name(columns), columns }))];
}

function heatTable(columns) { // rows: sites
  const sites = columns[0].runs[0].sites;
  const head = [el("th", { class: "text" }, ""), columns.map((one) => el("th", {}, one.title))];
  const rows = sites.map((site, index) => el("tr", {}, el("th", { class: "text" }, site.name),
    columns.map(({ runs, colour, title }) => {
      const own = runs.map((run) => run.sites[index]).filter(Boolean); // a student of half the width has smaller sites
      const kept = spread(own.map((one) => one.kept / one.total)).mean, total = own[0].total;
      // The square root keeps small shares visible: most budgets worth looking at are below a tenth.
      const strength = Math.sqrt(kept);
      return el("td", {
        style: { background: tinted(colour, 0.04 + 0.96 * strength), color: strength > 0.62 ? "#fff" : "var(--ink)" },
        title: `${site.name}, ${title}: ${whole(kept * total)} of ${whole(total)} kept`,
      }, kept === 0 ? "0" : (100 * kept).toFixed(kept < 0.0995 ? 1 : 0));
    })));
  return grid({ class: "heat" }, head, rows);
}

const COLUMNS = [
  { title: "run", text: true, of: (run) => run.name, cell: (run) => [dot(DATA.colours[run.method.name]), run.name || "(no name)"] },
  { title: "method", text: true, of: (run) => run.method.name },
  { title: "network", text: true, of: (run) => run.network, wanted: (panel) => new Set(panel.series.map((one) => one.network)).size > 1 },
  { title: "asked", of: (run) => run.budget.asked, cell: (run) => whole(run.budget.asked) },
  { title: "met", of: (run) => run.budget.met, cell: (run) => (run.budget.met === run.budget.asked || run.narrower ? whole(run.budget.met) : el("span", { class: "warn", title: "not the number asked" }, whole(run.budget.met))) },
  { title: "share", of: (run) => run.budget.met / run.budget.total, cell: (run) => share(run.budget.met, run.budget.total) },
  { title: "live sites", hint: "sites that keep any ReLU", of: (run) => run.predicted.live },
  { title: "PI s", hint: `one image online, predicted: ${DATA.preset.name}`, of: (run) => run.predicted.seconds, cell: (run) => significant(run.predicted.seconds) },
  { title: "PI MB", hint: `one image online, predicted: ${DATA.preset.name}`, of: (run) => run.predicted.megabytes, cell: (run) => significant(run.predicted.megabytes), wanted: () => DATA.preset.network },
  { title: "test", of: (run) => run.accuracy.test, cell: (run) => el("b", {}, percent(run.accuracy.test)) },
  { title: "last", of: (run) => run.accuracy.test_last, cell: (run) => percent(run.accuracy.test_last) },
  { title: "hold-out", of: (run) => run.accuracy.holdout, cell: (run) => percent(run.accuracy.holdout) },
  { title: "all-ReLU", of: (run) => run.accuracy.teacher_test, cell: (run) => percent(run.accuracy.teacher_test) },
  { title: "Δ", of: (run) => difference(run), cell: (run) => signed(difference(run)) },
  { title: "seed", of: (run) => run.seed },
  { title: "time", of: (run) => runSeconds(run), cell: (run) => duration(runSeconds(run)) },
];
const difference = (run) => (isNumber(run.accuracy.test) && isNumber(run.accuracy.teacher_test) ? run.accuracy.test - run.accuracy.teacher_test : null);
const runSeconds = (run) => run.stages.reduce((sum, stage) => sum + stage.seconds, 0);

function drawRuns(table, panel, state, select, redraw) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const column = COLUMNS[state.sort.column], columns = COLUMNS.filter((one) => !one.wanted || one.wanted(panel));
  const runs = panel.runs.map((index) => DATA.runs[index]).filter((run) => {
    const text = `${run.name} ${run.method.name} ${run.network} seed ${run.seed} s${run.seed} ${run.budget.asked} ${run.key}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  runs.sort(inOrder(column.of, state.sort.direction, (a, b) => (a.name < b.name ? -1 : 1)));
  const header = columns.map((one) => {
    const index = COLUMNS.indexOf(one), direction = state.sort.column === index ? state.sort.direction : 0;
    const sort = () => {
      state.sort = { column: index, direction: -direction || (one.text ? 1 : -1) };
      redraw();
    };
    return sortingHead(one, direction, sort, one.title);
  });
  const body = runs.map((run) => el("tr", { ...opening(() => select(run.key, true)), "aria-selected": String(run.key === state.selected) },
    columns.map((one) => el("td", { class: one.text ? "text" : null }, one.cell ? one.cell(run) : one.of(run)))));
  if (!body.length) body.push(el("tr", {}, el("td", { class: "text faint", colspan: COLUMNS.length }, "No run fits this filter.")));
  table.replaceChildren(el("thead", {}, el("tr", {}, header)), el("tbody", {}, body));
}
