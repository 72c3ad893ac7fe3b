// Keeps marked parts of a page fresh: <div id="jobs" data-refresh="5"> is replaced every 5 seconds by the element of the same
// id in the page as it is then. Nothing is fetched while the page is hidden, and a part that holds the focus waits.
export async function fetchPage() {
  let answer = null;
  try {
    answer = await fetch(location.href, { headers: { "x-graft-background": "1" }, redirect: "manual" });
  } catch { stale("The console does not answer."); return null; }
  if (answer.status === 401) { location.reload(); return null; }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    stale(said.message ?? `The console answers ${answer.status}.`);
    return null;
  }
  stale("");
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// Figures that stand still look like a service that does nothing: it is said since when, and why.
let since = new Date(), note = null;
function stale(why) {
  if (!why) { since = new Date(); note?.remove(); note = null; return; }
  if (!note) {
    note = document.createElement("p");
    note.className = "flash bad";
    note.setAttribute("role", "status");
    document.getElementById("main").prepend(note);
  }
  const text = `Not fresh since ${since.toLocaleTimeString()}; trying again. ${why}`;
  if (note.textContent !== text) note.textContent = text;  // said once to a screen reader
}

export function replaceParts(page, parts, { evenFocused = false } = {}) {
  for (const part of parts) {
    const fresh = page.getElementById(part.id);
    if (!fresh || (!evenFocused && part.contains(document.activeElement))) continue;
    part.replaceChildren(...fresh.childNodes);
    part.dispatchEvent(new CustomEvent("refreshed", { bubbles: true }));
  }
}

function keepFresh() {
  const marked = [...document.querySelectorAll("[data-refresh]")];
  if (!marked.length) return;
  const seconds = Math.min(...marked.map((part) => Number(part.dataset.refresh)));
  let busy = false;
  setInterval(async () => {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const page = await fetchPage();
      if (page) replaceParts(page, marked);
    } finally { busy = false; }
  }, seconds * 1000);
}

keepFresh();
