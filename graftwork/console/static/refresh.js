// Keeps marked parts of a page fresh: <div id="jobs" data-refresh="5"> is replaced every 5 seconds by the element of the same
// id in the page as it is then. Nothing is fetched while the page is hidden, and a part that holds the focus waits.
export async function fetchPage() {
  const answer = await fetch(location.href, { headers: { "x-graft-background": "1" }, redirect: "manual" });
  if (answer.status === 401) { location.reload(); return null; }
  if (!answer.ok) return null;
  return new DOMParser().parseFromString(await answer.text(), "text/html");
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
    } catch (error) {
      console.warn("the page could not be refreshed; trying again", error);
    } finally { busy = false; }
  }, seconds * 1000);
}

keepFresh();
