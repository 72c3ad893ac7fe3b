// One job, live: its events by server-sent events, drawn at most once a frame.
import { drawChart, readable, smoothed, written } from "./chart.js";
import { fetchPage, replaceParts } from "./refresh.js";

const MOST_LINES = 500;
const find = (id) => document.getElementById(id);
const losses = [], rates = [], heldOut = [];
let base = null, charts = {}, planned = false, source = null, last = 0;

function say(id, text) { const part = find(id); if (part) part.textContent = text; }

function addLine(time, text, warns) {
  if (!text) return;
  const lines = find("lines"), line = document.createElement("li");
  const clock = document.createElement("time");
  clock.dateTime = time;
  clock.textContent = new Date(time).toLocaleTimeString();
  line.append(clock, ` ${warns ? "Warning: " : ""}${text}`);
  if (warns) line.className = "warning";
  lines.prepend(line);
  while (lines.childElementCount > MOST_LINES) lines.lastElementChild.remove();
}

// On a linear scale the end of a curve that spans much would lie flat.
function spansMuch() {
  const seen = [...losses, ...heldOut].map((point) => point[1]);
  return seen.length > 0 && Math.min(...seen) > 0 && Math.min(...seen) * 20 < Math.max(...seen);
}

function draw() {
  planned = false;
  const trend = smoothed(losses);
  charts.loss = drawChart(find("loss-chart"), {
    curves: [
      { points: losses, name: "c1", faint: trend.length > 0 },
      ...(trend.length ? [{ points: trend, name: "c1" }] : []),
      { points: heldOut, name: "c2", dots: true },
    ],
    levels: base === null ? [] : [base],
    log: spansMuch(),
    x: "step",
  });
  charts.rate = drawChart(find("rate-chart"), { curves: [{ points: rates, name: "c3" }], height: 140, x: "step" });
  if (losses.length) {
    const [step, loss] = losses.at(-1);
    const held = heldOut.length ? `; held out ${written(heldOut.at(-1)[1])}` : "";
    say("loss-reading", `Step ${step}: training loss ${written(loss)}${held}${base === null ? "" : `; base ${written(base)}`}.`);
    say("rate-reading", `Step ${step}: learning rate ${written(rates.at(-1)[1])}.`);
  }
}

function plan() { if (!planned) { planned = true; requestAnimationFrame(draw); } }

// A worker that died goes on from its checkpoint: what came after that is overwritten.
function put(points, step, value) {
  while (points.length && points.at(-1)[0] >= step) points.pop();
  points.push([step, value]);
}

function onStep(data) {
  put(losses, data.step, data.loss);
  put(rates, data.step, data.rate);
  const progress = find("progress");
  progress.max = data.total || 1;
  progress.value = data.step;
  say("step", `${data.step}/${data.total}, epoch ${data.epoch.toFixed(2)}`);
  say("loss", data.loss.toFixed(4));
  say("speed", `${Math.round(data.speed).toLocaleString()} tokens/s${data.memory ? `, ${data.memory}` : ""}`);
  plan();
}

function onEvaluated(data) {
  if (data.base) { base = data.loss; say("base", data.loss.toFixed(4)); } else {
    put(heldOut, data.step, data.loss);
    say("held-out", data.loss.toFixed(4));
  }
  addLine(data.time, `held-out loss, ${data.base ? "base" : `step ${data.step}`}: ${data.loss.toFixed(4)}`);
  plan();
}

function onState(data) {
  const badge = document.querySelector("#facts .state");
  badge.textContent = data.state;
  badge.className = `state s-${data.state}`;
  say("why", data.text);
  if (data.attempt) say("attempt", data.attempt);
  addLine(data.time, `${data.state}${data.text ? `: ${data.text}` : ""}`);
}

async function onEnd() {
  source.close();
  say("connection", "");
  const page = await fetchPage();  // the version, and which actions there are now
  if (page) {
    const kept = { loss: find("loss").textContent, speed: find("speed").textContent };
    replaceParts(page, [find("facts")], { evenFocused: true });  // once: a Cancel that holds the focus is none any more
    for (const [id, text] of Object.entries(kept)) say(id, text);
  }
  document.body.dataset.live = "ended";
}

function connect() {
  source = new EventSource(`${find("facts").dataset.events}${last ? `?after=${last}` : ""}`);
  const on = (name, handle) => source.addEventListener(name, (event) => {
    if (event.lastEventId) last = Number(event.lastEventId);
    handle(JSON.parse(event.data));
  });
  source.onopen = () => { say("connection", ""); document.body.dataset.live = "on"; };
  on("step", onStep);
  on("evaluated", onEvaluated);
  on("state", onState);
  on("line", (data) => addLine(data.time, data.text, data.warns));
  on("end", onEnd);
  on("trouble", (data) => {
    say("connection", data.again ? `${data.message} Trying again.` : data.message);
    if (!data.again) source.close();
  });
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) { say("connection", "The connection broke; trying again."); return; }
    say("connection", "The console does not answer; trying again.");
    setTimeout(async () => {
      await fetchPage();  // an ended session leads to the sign-in page
      connect();
    }, 3000);
  };
}

for (const [id, key, read] of [
  ["loss-chart", "loss", (step) => {
    const at = (points) => points.findLast((point) => point[0] <= step);
    const held = at(heldOut);
    say("loss-reading", `Step ${step}: training loss ${written(at(losses)[1])}${held ? `; held out ${written(held[1])} at step ${held[0]}` : ""}${base === null ? "" : `; base ${written(base)}`}.`);
  }],
  ["rate-chart", "rate", (step) => say("rate-reading", `Step ${step}: learning rate ${written(rates.find((point) => point[0] === step)[1])}.`)],
]) readable(find(id), () => charts[key], () => losses.map((point) => point[0]), read);

new ResizeObserver(plan).observe(find("loss-chart").parentElement);
connect();
