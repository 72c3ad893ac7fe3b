// Asks up to three models at once and shows their answers as they come.
const form = document.getElementById("ask"), go = document.getElementById("go"), stop = document.getElementById("stop");
let stopping = null;

function panel(place) {
  const card = document.getElementById(`answer-${place}`), part = (name) => card.querySelector(name);
  return {
    card, text: "", failed: false,
    begin(title) {
      card.hidden = false;
      card.setAttribute("aria-busy", "true");
      part("h2").textContent = title;
      for (const name of [".where", ".text", ".problem", ".figures-line", ".same"]) part(name).textContent = "";
      part(".problem").hidden = true;
      part(".where").textContent = "waiting";
    },
    started({ version, route, tier }) {
      part(".where").textContent = [version && `version ${version}`, `route ${route}`, tier && `was in ${{ device: "a slot", host: "host memory", disk: "the disk cache", store: "the store" }[tier]}`]
        .filter(Boolean).join(", ");
    },
    add(piece) { this.text += piece; part(".text").append(piece); },
    finished(data) {
      // Text that came all at the end, as of tokens that are no characters, says nothing about speed.
      const after = data.total_ms - data.first_token_ms;
      const speed = after > data.total_ms / 20 && data.completion_tokens > 1
        ? `, ${Math.round(((data.completion_tokens - 1) * 1000) / after)} tokens/s` : "";
      const load = data.load_ms >= 1 ? `, of it loading ${time(data.load_ms)}` : "";
      part(".figures-line").textContent = `First token ${time(data.first_token_ms)}${load}; whole answer ${time(data.total_ms)}; ` +
        `${data.completion_tokens} tokens for a prompt of ${data.prompt_tokens}${speed}; ended by ${data.reason === "length" ? "the limit of tokens" : "the model"}.`;
    },
    trouble(message) {
      this.failed = true;
      part(".problem").textContent = message;
      part(".problem").hidden = false;
      if (!this.text) part(".where").textContent = "";
    },
    say(text) { part(".same").textContent = text; },
    end() { card.removeAttribute("aria-busy"); },
  };
}

function time(ms) { return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`; }

// The events of a stream that came by POST: EventSource knows only GET, whose address would carry the prompt.
async function* events(answer) {
  let held = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const block of whole) {
      const lines = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (lines.event) yield [lines.event, JSON.parse(lines.data)];
    }
  }
}

async function ask(place, title, model, fields, signal) {
  const shown = panel(place);
  shown.begin(title);
  const body = new URLSearchParams(fields);
  body.set("model", model);
  try {
    const answer = await fetch(form.action, { method: "POST", body, signal, headers: { accept: "text/event-stream" } });
    if (answer.status === 401) { location.reload(); return shown; }
    if (!answer.ok) { shown.trouble((await answer.json()).message); return shown; }
    let ended = false;
    for await (const [name, data] of events(answer)) {
      if (name === "text") shown.add(data);
      else if (name === "trouble") { shown.trouble(data.message); ended = true; }
      else if (name === "started" || name === "finished") shown[name](data);
      else if (name === "end") ended = true;
    }
    if (!ended) shown.trouble("The answer broke off: the console or the service went away. Ask again.");
  } catch (error) {
    shown.trouble(error.name === "AbortError" ? "Stopped." : "The console did not answer. Is it still running?");
  } finally { shown.end(); }
  return shown;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (stopping) return;
  const data = new FormData(form), fields = [...data].filter(([name]) => !["base", "one", "other"].includes(name));
  const wanted = [["base", "The base", data.has("base") ? "" : null], ...["one", "other"].map((name) => {
    const model = data.get(name).trim();
    return [name, model.replace(/@([0-9a-f]{12})[0-9a-f]+$/, "@$1"), model || null];
  })].filter(([place, , model]) => {
    document.getElementById(`answer-${place}`).hidden = model === null;
    return model !== null;
  });
  stopping = new AbortController();
  go.disabled = true;
  stop.disabled = false;
  say(wanted.length ? "Asking." : "Choose what to ask: the base, or a version.");
  const shown = await Promise.all(wanted.map(([place, title, model]) => ask(place, title, model, fields, stopping.signal)));
  compare(shown.filter((one) => !one.failed));
  if (shown.length) say(shown.some((one) => one.failed) ? "Not all answered." : "All answers are there.");
  stopping = null;
  go.disabled = false;
  stop.disabled = true;
});

function compare(shown) {
  if (shown.length < 2) return;
  const [first, ...rest] = shown;
  for (const one of rest) one.say(one.text === first.text ? "The same answer as the first." : "Another answer than the first.");
}

function say(text) { document.getElementById("said").textContent = text; }

stop.addEventListener("click", () => stopping?.abort());
form.elements.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
});
