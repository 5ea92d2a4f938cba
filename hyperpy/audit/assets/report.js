"use strict";
// Everything is in the page already; this shows one step beside the drawing and walks between steps.
(() => {
  const root = document.documentElement;
  const panel = document.getElementById("panel");
  const byId = (name) => document.getElementById(name);
  let at = "";
  root.classList.add("js");

  const withMessages = (copy) => {
    for (const link of copy.querySelectorAll("a.ref")) {
      const found = byId(link.getAttribute("href").slice(1));
      const pre = found && found.querySelector("pre");
      if (pre) link.after(pre.cloneNode(true));
    }
  };

  const show = (name, focus) => {
    const found = byId(name);
    if (!found || !(found.classList.contains("step") || found.classList.contains("group"))) return false;
    at = name;
    const copy = found.cloneNode(true);
    const title = document.createElement("h3");
    title.textContent = copy.querySelector("summary").textContent;
    copy.querySelector("summary").remove();
    withMessages(copy);
    panel.className = found.classList.contains("step") ? found.className.replace("step", "") : "";
    panel.replaceChildren(title, ...copy.childNodes);
    panel.scrollTop = 0;
    for (const node of document.querySelectorAll(".node")) {
      node.classList.toggle("chosen", (node.dataset.steps || "").split(" ").includes(name) || node.getAttribute("href") === "#" + name);
    }
    const chosen = document.querySelector(".node.chosen");
    if (chosen && focus) chosen.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (focus) history.replaceState(null, "", "#" + name);
    return true;
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    const name = link.getAttribute("href").slice(1);
    if (show(name, true)) {
      event.preventDefault();
      return;
    }
    const found = byId(name);
    if (found && found.tagName === "DETAILS") found.open = true;
  });

  const steps = [...document.querySelectorAll(".step")];
  const move = (by, wanted) => {
    const now = steps.findIndex((step) => step.id === at);
    for (let next = now + by; next >= 0 && next < steps.length; next += by) {
      if (wanted(steps[next])) {
        show(steps[next].id, true);
        return;
      }
    }
  };
  const any = () => true;
  const faulty = (step) => !step.classList.contains("fine");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    if (event.key === "j" || event.key === "ArrowRight") move(1, any);
    else if (event.key === "k" || event.key === "ArrowLeft") move(-1, any);
    else if (event.key === "f") move(1, faulty);
    else if (event.key === "F") move(-1, faulty);
    else return;
    event.preventDefault();
  });

  byId("only").addEventListener("change", (event) => byId("steps").classList.toggle("only", event.target.checked));
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const wanted = location.hash.slice(1);
  if (!wanted || !show(wanted, false)) show(panel.dataset.first, false);
})();
