// Draws the charts of the traffic page from the numbers that the page carries, and again whenever they were refreshed.
import { drawChart, readable, written } from "./chart.js";
import "./refresh.js";

const CHARTS = {
  requests: { curves: ["requests", "rejected"], names: ["ended", "rejected"], unit: "a minute" },
  tokens: { curves: ["tokens_out", "tokens_in"], names: ["generated", "of prompts"], unit: "a second" },
  first: { curves: ["first_p50", "first_p95"], names: ["half at most", "95 of 100 at most"], unit: "ms" },
  whole: { curves: ["whole_p95"], names: ["95 of 100 at most"], unit: "ms" },
};
const drawn = {};
let series = null;

function points(name) {
  return series[name].map((value, at) => [series.minutes[at], value === null ? NaN : value]);
}

function draw() {
  series = JSON.parse(document.querySelector("#series [data-series]").dataset.series);
  for (const [id, chart] of Object.entries(CHARTS)) {
    const svg = document.getElementById(`${id}-chart`);
    const curves = chart.curves.map((name, at) => ({ points: points(name), name: `c${at + 1}`, dots: chart.unit === "ms" }));
    drawn[id] = drawChart(svg, { curves, levels: [0], height: 190, x: "minutes from now" });
    if (!drawn[id]) say(id, "Nothing in this time.");
    else if (!svg.matches(":hover, :focus")) say(id, "");
  }
}

function say(id, text) { document.getElementById(`${id}-reading`).textContent = text; }

function ago(minutes) {
  const seconds = Math.round(-minutes * 60);
  return seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
}

function read(id, minutes) {
  const at = series.minutes.indexOf(minutes), { curves, names, unit } = CHARTS[id];
  const said = curves.map((name, place) => [names[place], series[name][at]]).filter(([, value]) => value !== null);
  say(id, `${ago(minutes)}: ${said.length ? said.map(([name, value]) => `${name} ${written(value)}`).join(", ") + ` ${unit}` : "nothing"}`);
}

for (const id of Object.keys(CHARTS))
  readable(document.getElementById(`${id}-chart`), () => drawn[id], () => (drawn[id] ? series.minutes : []), (at) => read(id, at));
document.getElementById("series").addEventListener("refreshed", draw);
new ResizeObserver(draw).observe(document.querySelector(".charts"));
draw();
