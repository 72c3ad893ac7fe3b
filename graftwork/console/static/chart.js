// Line charts in SVG, drawn anew from their points; colours come from the style sheet.
// drawChart(svg, {curves: [{points: [[x, y], ...], name: "c1", dots: false, faint: false}], levels: [y], height, log, x: "step"})
const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 34;

function element(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function written(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e6) return value.toExponential(1);
  return String(Number(value.toPrecision(size < 1 ? 3 : 4)));
}

function niceStep(span, most) {
  const raw = span / most, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
}

function linearTicks(low, high, most) {
  const step = niceStep(high - low || 1, most), ticks = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) ticks.push(at * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const factor of [1, 2, 5]) {
      const tick = factor * 10 ** power;
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  return ticks.length > 8 ? ticks.filter((tick) => Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6)) : ticks;
}

// At most so many points as there are pixels: of each pixel's column the lowest and the highest stay, so that no spike is lost.
export function thinned(points, columns) {
  if (points.length <= 2 * columns) return points;
  const size = points.length / columns, kept = [];
  for (let column = 0; column < columns; column += 1) {
    const part = points.slice(Math.floor(column * size), Math.floor((column + 1) * size));
    if (!part.length) continue;
    let low = part[0], high = part[0];
    for (const point of part) { if (point[1] < low[1]) low = point; if (point[1] > high[1]) high = point; }
    kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

// Running means over a twentieth of the points, as `graft job plot` draws them; none where there are too few for a trend.
export function smoothed(points) {
  const width = Math.floor(points.length / 20);
  if (width < 2) return [];
  let total = 0;
  const means = [];
  points.forEach(([x, y], at) => {
    total += y - (at >= width ? points[at - width][1] : 0);
    if (at >= width - 1) means.push([x, total / width]);
  });
  return means;
}

export function drawChart(svg, { curves, levels = [], height = 280, log = false, x = "" }) {
  const width = Math.max(280, Math.round(svg.getBoundingClientRect().width) || 600);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const points = curves.flatMap((curve) => curve.points);
  const values = [...points.map((point) => point[1]), ...levels].filter((value) => Number.isFinite(value) && (!log || value > 0));
  svg.replaceChildren();
  if (!points.length || !values.length) return null;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  if (log) { low *= 0.9; high *= 1.1; } else {
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    low = low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
  }
  const scale = log ? Math.log : (value) => value;
  const across = (value) => LEFT + ((value - first) / (last - first || 1)) * (width - LEFT - RIGHT);
  const up = (value) => TOP + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low))) * (height - TOP - BOTTOM);
  for (const tick of log ? logTicks(low, high) : linearTicks(low, high, 5)) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: up(tick), y2: up(tick) }));
    svg.append(element("text", { x: LEFT - 6, y: up(tick) + 4, "text-anchor": "end" }, written(tick)));
  }
  svg.append(element("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM }));
  for (const tick of linearTicks(first, last, Math.max(2, Math.floor(width / 110)))) {
    svg.append(element("text", { x: across(tick), y: height - BOTTOM + 16, "text-anchor": "middle" }, written(tick)));
  }
  if (x) svg.append(element("text", { x: width - RIGHT, y: height - 4, "text-anchor": "end" }, x));
  for (const level of levels) {
    if (log && level <= 0) continue;
    svg.append(element("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: up(level), y2: up(level) }));
  }
  for (const curve of curves) {
    const shown = thinned(curve.points.filter((point) => Number.isFinite(point[1]) && (!log || point[1] > 0)), width);
    const path = shown.map(([px, py], at) => `${at ? "L" : "M"}${across(px).toFixed(1)} ${up(py).toFixed(1)}`).join("");
    svg.append(element("path", { class: `${curve.name}${curve.faint ? " faint" : ""}`, d: path }));
    if (curve.dots || shown.length === 1)
      for (const [px, py] of shown) svg.append(element("circle", { class: curve.name, cx: across(px), cy: up(py), r: 3.5 }));
  }
  const cursor = element("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  return {
    // The x that a place on the screen stands for, and the line that shows it.
    at: (clientX) => {
      const box = svg.getBoundingClientRect();
      const inside = ((clientX - box.left) / box.width) * width;
      return first + Math.min(1, Math.max(0, (inside - LEFT) / (width - LEFT - RIGHT))) * (last - first);
    },
    point: (value) => {
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, across(value));
      cursor.setAttribute("visibility", "visible");
    },
    first, last,
  };
}

// Lets a pointer and the arrow keys read values off a chart: `read(x)` says what stands there.
export function readable(svg, getChart, xs, read) {
  let at = -1;
  const show = (index) => {
    const all = xs();
    if (!all.length) return;
    at = Math.min(all.length - 1, Math.max(0, index));
    const chart = getChart();
    if (chart) chart.point(all[at]);
    read(all[at]);
  };
  svg.addEventListener("pointermove", (event) => {
    const chart = getChart(), all = xs();
    if (!chart || !all.length) return;
    const wanted = chart.at(event.clientX);
    let best = 0;
    all.forEach((value, index) => { if (Math.abs(value - wanted) < Math.abs(all[best] - wanted)) best = index; });
    show(best);
  });
  svg.addEventListener("keydown", (event) => {
    const all = xs(), far = Math.max(1, Math.round(all.length / 20));
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - far, PageDown: at + far, Home: 0, End: all.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(at < 0 && event.key.startsWith("Arrow") ? all.length - 1 : moves[event.key]);
  });
}
