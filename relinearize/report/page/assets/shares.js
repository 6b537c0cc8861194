// Shares as colours, and grids of them: maps of masks, and sites over the epochs of a search.
const SHARE_PARTS = DATA.shareColours.map(rgb);
function shareColour(share) {
  const place = Math.sqrt(share) * (SHARE_PARTS.length - 1), low = Math.min(Math.floor(place), SHARE_PARTS.length - 2);
  return SHARE_PARTS[low].map((part, index) => part + (place - low) * (SHARE_PARTS[low + 1][index] - part));
}
function paint(canvas, width, height, colourAt) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const colour = colourAt(i % width, Math.floor(i / width));
    if (colour) image.data.set([...colour, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
function shareLegend(what) {
  const bar = el("canvas", { width: 240, height: 1 });
  paint(bar, 240, 1, (x) => shareColour((x / 239) ** 2));
  return el("div", { class: "mask-legend" }, el("span", {}, what), el("div", {}, bar,
    DATA.shareTicks.map((tick) => el("i", { style: { left: 100 * Math.sqrt(tick) + "%" } }, compact(100 * tick)))));
}

const SITE_COLUMNS = [["relu/kept/", "Share of ReLUs kept", "kept"], ["mask/distance/", "Share of kept ReLUs that moved", "changed"]];
const isSiteColumn = (name) => SITE_COLUMNS.some(([prefix]) => name.startsWith(prefix));

// The trajectory of one search, site by site: rows are sites, columns epochs. Null where nothing was recorded.
function siteTrajectory(history, sites) {
  const kind = SITE_COLUMNS.find(([prefix]) => history[prefix + sites[0].name]);
  if (!kind) return null;
  const [prefix, title, word] = kind, epochs = history.epoch;
  const shares = sites.map((site) => history[prefix + site.name].map((value) => (isNumber(value) ? (word === "kept" ? value / site.total : value) : null)));
  const canvas = el("canvas", { role: "img", "aria-label": `${title}, site by site` });
  paint(canvas, epochs.length, sites.length, (x, y) => (shares[y][x] === null ? null : shareColour(shares[y][x])));
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [[event.clientX - box.left, box.width, epochs.length], [event.clientY - box.top, box.height, sites.length]].map(([offset, size, count]) => Math.max(0, Math.min(count - 1, Math.floor((offset * count) / size))));
  };
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    tip.show(event, el("b", {}, sites[y].name), tip.rows([["epoch", compact(epochs[x])], [word, shares[y][x] === null ? MISSING : compact(100 * shares[y][x]) + " %"]]));
  });
  canvas.addEventListener("pointerleave", tip.hide);
  return el("figure", { class: "site-trajectory" }, el("h3", {}, title),
    el("div", {}, el("div", { class: "names", "aria-hidden": "true" }, sites.map((site) => el("code", { title: site.name }, site.name))), canvas),
    el("p", { class: "faint" }, el("span", {}, `epoch ${compact(epochs[0])}`), el("span", {}, compact(epochs[epochs.length - 1]))));
}
