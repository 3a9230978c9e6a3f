// The report's own script: no library, no network. It reads the page's block of JSON, and
// writes names with textContent only, so that none of them can become markup.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("report-data").textContent);
  const films = data.films;
  const PAGE = 48;
  const PRINTED = 24;

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const share = (value) => (Number.isFinite(value) ? value.toFixed(3) : "undefined");
  // Classes well apart have thresholds that three decimals would all call 0.
  const level = (value) => (value > 0 && value < 0.0005 ? value.toExponential(1) : share(value));

  // ---- Threshold: one class against the rest ------------------------------------------

  const view = { chosen: data.classes.length - 1, threshold: 0.5, prevalence_percent: 5 };

  // How many of the scores, which stand in rising order, are at or above the threshold. Of very
  // many scores the page holds every k-th: the share times the true number stands for the count.
  const atOrAbove = ({ scores, n }, threshold) => {
    let low = 0, high = scores.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[middle] < threshold) low = middle + 1;
      else high = middle;
    }
    return scores.length ? Math.round((n * (scores.length - low)) / scores.length) : 0;
  };

  // A rate and the ends of its interval, as of films that are independent.
  const wilson = (hits, n) => {
    const z = 1.959963984540054, p = hits / n, scale = 1 + (z * z) / n;
    const centre = (p + (z * z) / (2 * n)) / scale;
    const half = (z / scale) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
    return [p, clamp(centre - half, 0, 1), clamp(centre + half, 0, 1)];
  };
  // What one answer is worth where a share has its class: of both rates, and of their ends.
  const worth = (right, others, prior) => right.map((rate, end) =>
    (rate * prior) / (rate * prior + (1 - others[end]) * (1 - prior)));
  const rated = ([value, low, high]) => Number.isFinite(value)
    ? `${share(value)} (${low.toFixed(2)}–${high.toFixed(2)})` : "undefined";

  const explore = () => {
    const { positive, negative } = data.scores[view.chosen];
    const tp = atOrAbove(positive, view.threshold), fp = atOrAbove(negative, view.threshold);
    const counts = { tp, fp, fn: positive.n - tp, tn: negative.n - fp };
    for (const [name, count] of Object.entries(counts)) byId(`explore-${name}`).textContent = count;
    const found = wilson(tp, positive.n), left = wilson(counts.tn, negative.n);
    const prior = view.prevalence_percent / 100;
    const ppv = worth(found, left, prior), npv = worth(left, found, 1 - prior);
    const rates = { sensitivity: found, specificity: left, ppv, npv };
    for (const [name, rate] of Object.entries(rates)) byId(`explore-${name}`).textContent = rated(rate);
    drawPlot(positive, negative);
    for (const button of byId("explore-points").querySelectorAll("button"))
      button.setAttribute("aria-pressed", Number(button.value) === view.threshold);
    const name = data.classes[view.chosen];
    byId("explore-positive").textContent = `is ${name}`;
    byId("explore-negative").textContent = "is not";
    const titles = { tp: "found", fn: "missed", fp: "false alarms", tn: "rightly left" };
    for (const [outcome, title] of Object.entries(titles))
      byId(`explore-${outcome}`).setAttribute(
        "aria-label", `${counts[outcome]} films of ${name} ${title}: show them`);
    byId("explore-chosen").textContent = // paper has no controls that would tell it
      `${name} at a threshold of ${level(view.threshold)}, prevalence ${view.prevalence_percent} %`;
    say("explore-status", `${name} at ${level(view.threshold)}: sensitivity ${share(found[0])}, ` +
      `specificity ${share(left[0])}, PPV ${share(ppv[0])}, NPV ${share(npv[0])}`);
  };

  // Told once the slider rests, or a screen reader would read every step of it.
  const timers = {};
  const say = (id, text) => {
    clearTimeout(timers[id]);
    timers[id] = setTimeout(() => { byId(id).textContent = text; }, 300);
  };

  const drawPlot = (positive, negative) => {
    const BINS = 40, WIDTH = 400, MIDDLE = 86, HEIGHT = 74, plot = byId("explore-plot");
    plot.replaceChildren();
    const bars = ({ scores }, sign, kind) => {
      const counts = new Array(BINS).fill(0);
      for (const score of scores) counts[clamp(Math.floor(score * BINS), 0, BINS - 1)] += 1;
      const most = Math.max(1, ...counts), wide = WIDTH / BINS;
      counts.forEach((count, bin) => {
        const tall = (HEIGHT * count) / most;
        if (count) plot.append(draw("rect", {
          class: kind, x: bin * wide + 0.5, width: wide - 1, height: Math.max(tall, 1.5),
          y: sign > 0 ? MIDDLE - Math.max(tall, 1.5) : MIDDLE,
        }));
      });
    };
    bars(positive, 1, "positive");
    bars(negative, -1, "negative");
    plot.append(draw("line", { class: "axis", x1: 0, x2: WIDTH, y1: MIDDLE, y2: MIDDLE }));
    for (const point of pointsOfClass()) {
      const x = point.threshold * WIDTH;
      plot.append(draw("line", { class: "point", x1: x, x2: x, y1: 162, y2: 170 }));
    }
    const x = view.threshold * WIDTH;
    plot.append(draw("line", { class: "threshold", x1: x, x2: x, y1: 4, y2: 170 }));
    for (const [value, anchor] of [[0, "start"], [0.25, "middle"], [0.5, "middle"],
      [0.75, "middle"], [1, "end"]]) {
      const label = draw("text", { x: value * WIDTH, y: 185, "text-anchor": anchor });
      label.textContent = value;
      plot.append(label);
    }
  };

  const pointsOfClass = () => data.points.filter((point) => point.class === view.chosen);

  const showPoints = () => {
    const title = pointsOfClass().length ? [make("span", { textContent: "Operating points" })] : [];
    byId("explore-points").replaceChildren(...title, ...pointsOfClass().map((point) => {
      const text = `${point.rule}: ${level(point.threshold)}`;
      const button = make("button", { type: "button", textContent: text, value: point.threshold });
      button.addEventListener("click", () => setThreshold(point.threshold));
      return button;
    }));
  };

  const setThreshold = (value) => {
    if (!Number.isFinite(value)) return;
    view.threshold = Math.max(value, 0); // above 1 where a rule calls no film
    byId("explore-range").value = view.threshold;
    byId("explore-threshold").value = view.threshold;
    explore();
  };

  const setPrevalence = (percent) => {
    if (!(percent > 0 && percent < 100)) return;
    view.prevalence_percent = percent;
    byId("explore-prevalence-range").value = percent;
    byId("explore-prevalence").value = percent;
    explore();
  };

  const startExplorer = () => {
    byId("explore-class").value = view.chosen;
    byId("explore-class").addEventListener("change", (event) => {
      view.chosen = Number(event.target.value);
      showPoints();
      explore();
    });
    const bind = (ids, set, current) => ids.map(byId).forEach((field) => {
      field.addEventListener("input", () => field.validity.valid && set(field.valueAsNumber));
      field.addEventListener("change", () => set(current())); // what is out of range does not stay
    });
    bind(["explore-range", "explore-threshold"], setThreshold, () => view.threshold);
    bind(["explore-prevalence-range", "explore-prevalence"], setPrevalence,
      () => view.prevalence_percent);
    for (const button of document.querySelectorAll("#explorer [data-outcome]"))
      button.addEventListener("click", () => showOutcome(button.dataset.outcome));
    showPoints();
    setThreshold(view.threshold);
    setPrevalence(view.prevalence_percent);
  };

  // ---- Gallery ------------------------------------------------------------------------

  const search = { truth: "", predicted: "", outcome: "", text: "", order: "mistakes" };
  let special = null; // a choice that the fields cannot tell: films on one side of a threshold
  let shown = PAGE;

  const confidence = (film) => film.p[film.predicted];
  const isRight = (film) => film.truth === film.predicted;
  const abstains = (film) => data.abstain_below !== null && confidence(film) < data.abstain_below;
  const OUTCOMES = { right: isRight, wrong: (film) => !isRight(film), abstained: abstains };
  const byName = (a, b) => (a.path < b.path ? -1 : 1);
  const ORDERS = {
    mistakes: (a, b) => isRight(a) - isRight(b) || confidence(b) - confidence(a),
    high: (a, b) => confidence(b) - confidence(a),
    low: (a, b) => confidence(a) - confidence(b),
    name: () => 0,
  };

  const chosenFilms = () => films
    .filter((film) =>
      (search.truth === "" || film.truth === Number(search.truth)) &&
      (search.predicted === "" || film.predicted === Number(search.predicted)) &&
      (search.outcome === "" || OUTCOMES[search.outcome](film)) &&
      film.path.toLowerCase().includes(search.text.toLowerCase()) &&
      (special === null || special.test(film)))
    .sort((a, b) => (ORDERS[search.order] ??
      ((a, b) => b.p[search.order] - a.p[search.order]))(a, b) || byName(a, b));

  const bar = (name, value, isTrue) => {
    const meter = make("span", { className: "meter" }, make("span"));
    meter.firstChild.style.width = `${100 * value}%`;
    return make("li", { className: isTrue ? "is-true" : "" },
      make("span", { className: "name", textContent: name }), meter,
      make("span", { className: "number", textContent: value.toFixed(3) }));
  };

  const heatMapVerdict = () => {
    const { method, state } = data.heat_map;
    const shade = { passed: "right", failed: "wrong" }[state] ?? "open";
    return make("p", { className: "n tags" }, `${method} `, make("span", { className: `tag ${shade}`, textContent: state }));
  };

  const card = (film) => {
    const pane = make("div", { className: "pane" });
    const picture = (src, className, alt) =>
      make("img", { className, alt, loading: "lazy", decoding: "async", width: 128, height: 128, src });
    pane.append(picture(film.film, "film", `Film ${film.path}`));
    if (film.heat) pane.append(picture(film.heat, "heat", ""));
    const right = isRight(film);
    const tags = make("p", { className: "tags" },
      make("span", { className: `tag ${right ? "right" : "wrong"}`, textContent: right ? "right" : "wrong" }));
    if (abstains(film)) tags.append(make("span", { className: "tag open", textContent: "abstains" }));
    const names = data.classes;
    const listed = names.map((_, c) => c).sort((a, b) => film.p[b] - film.p[a]).slice(0, 4);
    if (!listed.includes(film.truth)) listed[3] = film.truth;
    return make("li", { className: "card" }, pane, tags,
      make("p", { className: "answer", textContent: `called ${names[film.predicted]}, is ${names[film.truth]}` }),
      make("ul", { className: "bars" }, ...listed.map((c) => bar(names[c], film.p[c], c === film.truth))),
      make("p", { className: "path code", textContent: film.path }),
      ...(film.heat ? [heatMapVerdict()] : []));
  };

  const showFilms = () => {
    const found = chosenFilms(), part = found.slice(0, shown);
    const cards = part.map(card);
    for (const each of cards.slice(PRINTED)) each.classList.add("screen-only");
    byId("gallery-cards").replaceChildren(...cards);
    const about = special ? `: ${special.title}` : "";
    const some = (count, className) => make("span", {
      className, textContent: count < found.length ? `, ${count} shown` : "",
    });
    byId("gallery-status").replaceChildren(
      `${found.length} of ${films.length} films${about}`, some(part.length, "screen-only"),
      some(Math.min(part.length, PRINTED), "print-only"));
    byId("gallery-more").hidden = part.length === found.length;
    byId("gallery-more").textContent = `Show ${Math.min(PAGE, found.length - part.length)} more`;
    byId("gallery-clear").hidden = found.length === films.length;
  };

  const FIELDS = {
    "gallery-true": "truth", "gallery-predicted": "predicted", "gallery-outcome": "outcome",
    "gallery-text": "text", "gallery-order": "order",
  };

  const find = (wanted, only = null) => {
    Object.assign(search, wanted);
    special = only;
    shown = PAGE;
    for (const [id, name] of Object.entries(FIELDS)) byId(id).value = search[name];
    showFilms();
  };

  const NO_SEARCH = { truth: "", predicted: "", outcome: "", text: "" };

  const goToGallery = (wanted, only) => {
    find({ ...NO_SEARCH, ...wanted }, only);
    byId("gallery").scrollIntoView();
    byId("gallery").focus({ preventScroll: true });
  };

  const showOutcome = (outcome) => {
    const { chosen, threshold } = view;
    const isIt = outcome === "tp" || outcome === "fn", called = outcome === "tp" || outcome === "fp";
    const name = data.classes[chosen];
    goToGallery({}, {
      title: `${isIt ? "" : "not "}${name}, ${called ? "" : "not "}called ${name} at ${level(threshold)}`,
      test: (film) => (film.truth === chosen) === isIt && (film.p[chosen] >= threshold) === called,
    });
  };

  const startGallery = () => {
    for (const [id, name] of Object.entries(FIELDS))
      byId(id).addEventListener("input", (event) => find({ [name]: event.target.value }, special));
    byId("gallery-clear").addEventListener("click", () => {
      find(NO_SEARCH);
      byId("gallery-text").focus(); // the button that had the focus is gone
    });
    byId("gallery-more").addEventListener("click", () => {
      const first = shown;
      shown += PAGE;
      showFilms();
      const next = byId("gallery-cards").children[first];
      next.tabIndex = -1;
      next.focus({ preventScroll: true });
    });
    const opacity = byId("gallery-opacity");
    const fade = () => byId("gallery-cards").style.setProperty("--heat", opacity.value);
    opacity.addEventListener("input", fade);
    fade();
    find({});
  };

  // ---- Confusion matrix: each cell leads to its films ---------------------------------

  const startConfusion = () => {
    for (const cell of document.querySelectorAll("[data-true]")) {
      const { true: truth, predicted } = cell.dataset;
      const button = make("button", { type: "button", className: "cell", textContent: cell.textContent });
      const names = `true ${data.classes[truth]}, predicted ${data.classes[predicted]}`;
      button.setAttribute("aria-label", `${cell.textContent} films, ${names}: show them`);
      button.addEventListener("click", () => goToGallery({ truth, predicted }, null));
      cell.replaceChildren(button);
    }
  };

  document.documentElement.classList.add("scripted");
  startExplorer();
  if (films.length) {
    startGallery();
    startConfusion();
  }
})();
