"use strict";
// Everything from the data block reaches the page through textContent: names are text, never markup.
(() => {
  const videos = JSON.parse(document.getElementById("data").textContent).videos;
  const $ = (id) => document.getElementById(id);
  const player = $("player");
  let video = null;      // the entry shown
  let events = [];       // its events with their elements
  let clock = 0;         // position when there is no player
  let playable = false;

  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const pad = (value, width) => String(value).padStart(width, "0");

  function timeText(seconds, decimals = 2) {
    const scale = 10 ** decimals;
    const units = Math.round(Math.max(0, seconds) * scale);
    const whole = Math.floor(units / scale);
    const fraction = decimals ? "." + pad(units % scale, decimals) : "";
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    const rest = pad(whole % 60, 2) + fraction;
    return hours ? `${hours}:${pad(minutes, 2)}:${rest}` : `${minutes}:${rest}`;
  }

  const span = () => Math.max(video.duration, 0.001);
  const percent = (seconds) => `${(100 * Math.min(Math.max(seconds / span(), 0), 1)).toFixed(4)}%`;
  const now = () => (playable ? player.currentTime : clock);
  const hue = (lane) => Math.round((lane * 137.508 + 210) % 360); // golden angle: neighbours differ

  function seek(seconds) {
    clock = Math.min(Math.max(seconds, 0), span());
    if (playable) player.currentTime = clock;
    refresh();
  }

  function refresh() {
    const time = now();
    $("playhead").style.left = percent(time);
    $("tracks").setAttribute("aria-valuenow", time.toFixed(2));
    $("tracks").setAttribute("aria-valuetext", timeText(time));
    const names = new Set();
    for (const event of events) {
      const current = !event.hidden && time >= event.start && time < event.end;
      event.bar.classList.toggle("current", current);
      event.row.classList.toggle("current", current);
      if (current) names.add(video.lanes[event.lane].label);
    }
    const text = [...names].join(", ");
    if ($("now").textContent !== text) $("now").textContent = text;
  }

  function tickStep(width) {
    const wanted = (span() * 80) / Math.max(width, 1); // a tick every 80 pixels or more
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    return steps.find((step) => step >= wanted) || 14400;
  }

  function drawRuler() {
    const ruler = $("ruler"), step = tickStep($("tracks").clientWidth);
    ruler.replaceChildren();
    for (let index = 0; index * step < span(); index += 1) {
      const tick = element("span", "tick", timeText(index * step, step < 1 ? 1 : 0));
      tick.style.left = percent(index * step);
      ruler.append(tick);
    }
  }

  function curveShape(curve) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", `0 0 ${span()} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const end = curve.first + curve.step * (curve.values.length - 1);
    const points = curve.values.map((value, k) => `${(curve.first + k * curve.step).toFixed(3)} ${100 - value}`);
    path.setAttribute("d", `M${curve.first} 100 L${points.join(" L")} L${end} 100 Z`);
    svg.append(path);
    return svg;
  }

  function describe(event) {
    const label = video.lanes[event.lane].label;
    return `${label}, ${timeText(event.start)} to ${timeText(event.end)}, score ${event.score.toFixed(2)}`;
  }

  function drawLanes() {
    const labels = $("labels"), lanes = $("lanes");
    labels.replaceChildren();
    lanes.replaceChildren();
    const used = new Set(video.events.map((event) => event.lane));
    const rows = video.lanes.map((lane, index) => {
      const label = element("div", used.has(index) ? "label" : "label silent", lane.label);
      label.title = lane.label;
      labels.append(label);
      const row = element("div", "lane");
      row.style.setProperty("--hue", hue(index));
      if (lane.curve) row.append(curveShape(lane.curve));
      lanes.append(row);
      return row;
    });
    const body = $("events").tBodies[0];
    body.replaceChildren();
    events = video.events.map((event) => {
      const bar = element("button", "event");
      bar.type = "button";
      bar.title = describe(event);
      bar.setAttribute("aria-label", describe(event));
      bar.style.left = percent(event.start);
      bar.style.width = percent(event.end - event.start);
      bar.addEventListener("click", (click) => { click.stopPropagation(); seek(event.start); });
      rows[event.lane].append(bar);
      const row = element("tr"), cell = element("td"), go = element("button", "", timeText(event.start));
      go.type = "button";
      go.setAttribute("aria-label", `Go to ${describe(event)}`);
      go.addEventListener("click", () => seek(event.start));
      cell.append(go);
      row.append(cell, element("td", "", timeText(event.end)),
        element("td", "", video.lanes[event.lane].label), element("td", "", event.score.toFixed(2)));
      body.append(row);
      return { ...event, bar, row, hidden: false };
    });
  }

  function filter() {
    const least = Number($("least").value);
    $("least-value").textContent = least.toFixed(2);
    for (const event of events) {
      event.hidden = event.score < least;
      event.bar.hidden = event.hidden;
      event.row.hidden = event.hidden;
    }
    refresh();
  }

  function zoom() {
    const scroll = $("scroll"), factor = 2 ** Number($("zoom").value);
    $("tracks").style.width = `${100 * factor}%`;
    drawRuler();
    scroll.scrollLeft = (now() / span()) * $("tracks").clientWidth - scroll.clientWidth / 2;
  }

  function usePlayer(source) {
    playable = false;
    player.hidden = !source;
    $("missing").hidden = Boolean(source);
    if (source) {
      player.src = source;
    } else {
      player.removeAttribute("src");
      player.load();
      $("missing-text").textContent = `The video ${video.name} is not where this page expects it.`;
    }
  }

  function show(index) {
    video = videos[index];
    clock = 0;
    $("name").textContent = video.name.split(/[\\/]/).pop() || video.name;
    $("name").title = video.name;
    $("about").textContent = `${timeText(video.duration)}, ${video.events.length} ` +
      `event${video.events.length === 1 ? "" : "s"}, ${video.detector}`;
    const notes = video.hidden ? [...video.notes, `${video.hidden} more classes are not shown here`] : video.notes;
    $("notes").replaceChildren(...notes.map((note) => element("li", "", note)));
    $("notes").hidden = notes.length === 0;
    $("empty").hidden = video.events.length > 0;
    $("events").hidden = video.events.length === 0;
    $("timeline").hidden = video.lanes.length === 0;
    $("controls").hidden = video.lanes.length === 0;
    $("tracks").setAttribute("aria-valuemax", video.duration.toFixed(2));
    usePlayer(video.source);
    drawLanes();
    filter();
    zoom();
  }

  function jump(direction) {
    const shown = events.filter((event) => !event.hidden).map((event) => event.start);
    const time = now();
    const target = direction > 0
      ? shown.filter((start) => start > time + 0.01).sort((a, b) => a - b)[0]
      : shown.filter((start) => start < time - 0.25).sort((a, b) => b - a)[0];
    if (target !== undefined) seek(target);
  }

  function toggle() {
    if (!playable) return;
    if (player.paused) player.play(); else player.pause();
  }

  function onKey(key) {
    if (key.ctrlKey || key.metaKey || key.altKey) return;
    const tag = key.target.tagName;
    if (tag === "INPUT" || tag === "SELECT" || tag === "VIDEO") return;
    if (key.key === " " && tag === "BUTTON") return; // the button's own key
    const actions = {
      " ": toggle,
      ArrowLeft: () => seek(now() - (key.shiftKey ? 10 : 1)),
      ArrowRight: () => seek(now() + (key.shiftKey ? 10 : 1)),
      Home: () => seek(0),
      End: () => seek(span()),
      n: () => jump(1),
      p: () => jump(-1),
    };
    if (actions[key.key]) { key.preventDefault(); actions[key.key](); }
  }

  function onPointer(pointer) {
    if (pointer.type === "pointermove" && !(pointer.buttons & 1)) return;
    if (pointer.target.classList.contains("event")) return;
    const box = $("tracks").getBoundingClientRect();
    seek(((pointer.clientX - box.left) / box.width) * span());
  }

  function follow() { // smooth playhead, only while playing
    refresh();
    if (playable && !player.paused) requestAnimationFrame(follow);
  }

  player.addEventListener("loadedmetadata", () => { playable = true; if (clock) player.currentTime = clock; refresh(); });
  player.addEventListener("play", follow);
  player.addEventListener("seeked", refresh);
  player.addEventListener("timeupdate", refresh);
  player.addEventListener("error", () => {
    if (!player.getAttribute("src")) return;
    playable = false;
    player.hidden = true;
    $("missing").hidden = false;
    $("missing-text").textContent = `The video ${video.name} cannot be played here: it was moved, or this browser does not know its format.`;
  });
  $("file").addEventListener("change", (change) => {
    if (change.target.files.length) usePlayer(URL.createObjectURL(change.target.files[0]));
  });
  document.addEventListener("keydown", onKey);
  $("tracks").addEventListener("pointerdown", onPointer);
  $("tracks").addEventListener("pointermove", onPointer);
  $("least").addEventListener("input", filter);
  $("zoom").addEventListener("input", zoom);
  $("next").addEventListener("click", () => jump(1));
  $("previous").addEventListener("click", () => jump(-1));
  window.addEventListener("resize", drawRuler);

  const themes = ["system", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const current = document.documentElement.dataset.theme || "system";
    const next = themes[(themes.indexOf(current) + 1) % themes.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    $("theme").textContent = `Theme: ${next}`;
  });

  videos.forEach((entry, index) => {
    const option = element("option", "", entry.name);
    option.value = index;
    $("videos").append(option);
  });
  $("videos").addEventListener("change", () => show(Number($("videos").value)));
  $("chooser").hidden = videos.length < 2;
  if (videos.length) show(0);
})();
