// What the page does by itself: it follows the run, counts seconds, and keeps long actions from
// being sent twice. Without this script every link and button works all the same.
"use strict";

const section = document.querySelector("[data-live]");
const followed = section ? section.dataset.live : "";
let state = document.querySelector("#run-state .badge")?.textContent;
let asking = false;
let askAgain = false;

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min`
    : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function countSeconds() {
  for (const element of document.querySelectorAll("[data-since]")) {
    element.textContent = ago(Date.now() / 1000 - Number(element.dataset.since));
  }
}

// Put the new parts in the place of the old; scroll position and focus stay where they were.
function replaceParts(fresh) {
  offerCopies(fresh);
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = document.getElementById(part.id);
    if (!old || old.innerHTML === part.innerHTML) continue;
    const atEnd = old.scrollHeight - old.scrollTop - old.clientHeight < 40;
    const focused = old !== document.activeElement && old.contains(document.activeElement);
    old.replaceChildren(...part.childNodes);
    old.toggleAttribute("data-poll", part.hasAttribute("data-poll"));
    if (old.classList.contains("log") && atEnd) old.scrollTop = old.scrollHeight;
    if (focused) (old.querySelector("button, a") || document.getElementById("run-h"))?.focus();
  }
  const now = document.querySelector("#run-state .badge")?.textContent;
  if (now && now !== state) document.getElementById("announce").textContent = `The run is ${now}.`;
  state = now;
}

// Ask the server for the parts again; many events within a second are one question.
async function refresh() {
  if (asking) { askAgain = true; return; }
  asking = true;
  try {
    const answer = await fetch(`/live?run=${encodeURIComponent(followed)}`);
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const served = page.querySelector("#server-state");
      const before = document.querySelector("#server-state");
      const changed = before?.hasAttribute("data-poll") && !served?.hasAttribute("data-poll");
      const born = !document.getElementById("run-progress") && page.querySelector("#run-state .badge");
      if (changed || born) { location.reload(); return; }
      replaceParts(page);
    }
  } catch { /* the stream says when the panel is gone */ }
  setTimeout(() => {
    asking = false;
    if (askAgain) { askAgain = false; refresh(); }
  }, 1000);
}

function follow() {
  const address = new URLSearchParams({ after: section.dataset.after });
  if (followed) address.set("run", followed);
  const stream = new EventSource(`/api/v1/training/events?${address}`);
  const lost = document.getElementById("connection");
  for (const kind of ["status", "metrics", "log", "reset"]) stream.addEventListener(kind, refresh);
  stream.onopen = () => { if (lost && !lost.hidden) { lost.hidden = true; refresh(); } };
  stream.onerror = () => { if (lost) lost.hidden = false; };
  addEventListener("pagehide", () => stream.close());
}

// A button that takes seconds says so, and is not pressed twice.
addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button?.dataset.busy) return;
  if (button.getAttribute("aria-busy")) { event.preventDefault(); return; }
  button.setAttribute("aria-busy", "true");
  button.dataset.said = button.textContent;
  button.textContent = button.dataset.busy;
});

// Back in the history: the buttons work again.
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[aria-busy]")) {
    button.removeAttribute("aria-busy");
    button.textContent = button.dataset.said;
  }
});

// Every command can be copied; without this script one click selects it.
function offerCopies(root) {
  for (const command of navigator.clipboard ? root.querySelectorAll(".cli") : []) {
    const button = document.createElement("button");
    const what = command.querySelector(".cli-label").textContent;
    button.type = "button";
    button.className = "quiet";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy the command: ${what}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    command.append(button);
  }
}

offerCopies(document);
const log = document.getElementById("run-log");
if (log) log.scrollTop = log.scrollHeight;
if (section) follow();
setInterval(countSeconds, 1000);
setInterval(() => { if (document.querySelector("[data-poll]")) refresh(); }, 2000);
