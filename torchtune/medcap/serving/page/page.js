// The page: runs to choose, an image to look at, a conversation with each chosen run, side by side.

import { answerOne, settings } from "./answering.js";
import * as api from "./api.js";
import { Conversation, hasAnswered, newAnswer, textFor } from "./conversation.js";
import { $, complain, make, quiet } from "./dom.js";
import { dataURL, smaller } from "./files.js";
import * as marking from "./marking.js";
import { onSlice, sliceOf } from "./marks.js";
import * as masks from "./masks.js";
import { show } from "./picture.js";
import * as regions from "./regions.js";
import * as volume from "./volume.js";
import * as votes from "./votes.js";

let conversation = new Conversation();
let attached = []; // images of the next question
let shown = null; // the image in the viewer
let looking = null; // the exchange whose answers are drawn over it
let running = null; // an AbortController while answers come
let maxImages = 1;
let readers = []; // the runs that read regions

start();

async function start() {
  try {
    const known = await api.settings();
    maxImages = known.max_images;
    readers = known.reads_regions;
    $("max_tokens").value = Math.min(256, known.max_new_tokens);
    $("max_tokens").max = known.max_new_tokens;
    known.models.forEach(addModel);
    known.examples.forEach(addExample);
    $("examples").hidden = known.examples.length === 0;
    refresh();
  } catch (error) {
    if (error.status !== 401) return complain(error);
    if (api.hasKey()) $("login_text").textContent = "The server does not accept this key: give another one.";
    $("key").value = "";
    $("login").showModal();
  }
}

$("login").addEventListener("close", () => {
  api.keepKey($("key").value);
  start();
});

// Runs

function addModel(name, place) {
  const label = make("label");
  const box = make("input", { type: "checkbox", value: name, checked: place < 2 });
  label.append(box, name);
  label.style.color = color(name, place);
  box.addEventListener("change", () => {
    refresh();
    showMarking();
  });
  $("models").append(label);
}

const boxes = () => [...$("models").querySelectorAll("input")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);
const color = (model, place = boxes().findIndex((box) => box.value === model)) => `var(--s${place % 6})`;

// Images

async function addExample(name, number) {
  const button = thumbnail("", name);
  button.addEventListener("click", async () => {
    try {
      await attach([new File([await api.example(number)], name)]);
    } catch (error) {
      complain(error);
    }
  });
  $("examples").append(button);
  button.firstChild.src = URL.createObjectURL(await api.thumbnail(number));
}

async function attach(files) {
  quiet();
  for (const file of files) {
    try {
      if (attached.length >= maxImages) throw new api.ServerError(0, `At most ${maxImages} images are taken.`);
      const image = { name: file.name, url: await dataURL(file), ...(await api.preview(file)) };
      image.thumbnail = await smaller(image.picture);
      if (image.hasSlices) {
        image.blob = file;
        await volume.load(image, () => {});
      }
      attached.push(image);
      look(image, null);
    } catch (error) {
      complain(error);
    }
  }
  refresh();
}

function thumbnail(source, name) {
  const button = make("button", { type: "button", className: "thumb", title: name });
  button.append(make("img", { src: source, alt: name }));
  return button;
}

function imageButton(image, exchange, remove) {
  const button = thumbnail(image.thumbnail, image.name);
  button.classList.toggle("shown", image === shown);
  button.addEventListener("click", () => look(image, exchange));
  if (remove) {
    const cross = make("span", { className: "remove", textContent: "×", title: "Take it away" });
    cross.addEventListener("click", (event) => {
      event.stopPropagation();
      remove();
    });
    button.append(cross);
  }
  return button;
}

function look(image, exchange) {
  shown = image;
  looking = exchange;
  refresh();
  draw();
}

volume.listen(
  () => shown,
  async (image) => {
    image.thumbnail = await smaller(image.picture);
    refresh();
    await draw();
  },
  complain,
);

marking.listen(
  () => shown,
  () => {
    quiet();
    refresh();
    draw();
    $("words").focus();
  },
  complain,
);

masks.listen(draw);

const showMarking = () => marking.showControls(shown, chosen().some((model) => readers.includes(model)));

function draw() {
  volume.showControls(shown, !attached.includes(shown));
  showMarking();
  const drawn = [...regions.marks.inSight(shown), ...marking.boxes.inSight(shown)];
  if (looking) {
    drawn.push(...regions.marks.inSight(shown, looking.regions), ...marking.boxes.inSight(shown, looking.boxes));
    for (const [model, answer] of looking.answers) {
      for (const region of [...answer.masks, ...answer.regions].filter(({ image, slice }) => image === shown && onSlice(slice, sliceOf(shown)))) {
        drawn.push({ ...region, color: getComputedStyle(document.body).getPropertyValue(color(model).slice(4, -1)) });
      }
    }
  }
  masks.showControls(drawn.some(({ mask }) => mask));
  return show(shown, drawn);
}

$("file").addEventListener("change", () => {
  attach($("file").files);
  $("file").value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", name === "dragover");
    if (name === "drop") attach(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) attach(event.clipboardData.files);
});

// Questions and answers

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("words").value.trim();
  const models = chosen();
  if (running || models.length === 0 || (text === "" && attached.length === 0)) return;
  running = new AbortController();
  refresh();
  try {
    const problem = marking.boxes.problem() || regions.marks.problem();
    if (problem) throw new Error(problem);
    const boxes = marking.boxes.all;
    const placed = regions.place(text);
    const words = await wordsFor(models, placed.text, boxes);
    looking = conversation.ask(placed.text, attached, models, boxes, words, placed.regions);
  } catch (error) {
    running = null;
    refresh();
    return complain(error);
  }
  attached = [];
  forgetMarks();
  $("words").value = "";
  answerAll(looking, models);
});

function forgetMarks() {
  marking.boxes.clear();
  regions.marks.clear();
}

// What each run is asked: it has its own notation of boxes.
const wordsFor = async (models, text, marks) =>
  marks.length > 0 || text.includes("{box") ? api.placeBoxes(models, text, marking.toSend(marks)) : {};

$("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("words").addEventListener("input", refresh);

$("regenerate").addEventListener("click", async () => {
  const exchange = conversation.exchanges.at(-1);
  const models = chosen();
  try {
    exchange.words = { ...exchange.words, ...(await wordsFor(models, exchange.text, exchange.boxes)) };
  } catch (error) {
    return complain(error);
  }
  $("seed").value = Number($("seed").value) + 1;
  exchange.best = null;
  models.forEach((model) => exchange.answers.set(model, newAnswer()));
  answerAll(exchange, models);
});

async function answerAll(exchange, models) {
  quiet();
  running = new AbortController();
  redrawLog();
  const { signal } = running;
  await Promise.all(models.map((model) => answerOne(conversation, exchange, model, signal).then(redrawLog)));
  running = null;
  redrawLog();
  draw();
}

$("stop").addEventListener("click", () => running?.abort());

$("clear").addEventListener("click", () => {
  conversation = new Conversation();
  attached = [];
  forgetMarks();
  look(null, null);
  redrawLog();
  quiet();
});

$("save").addEventListener("click", () => {
  const content = conversation.toJSON(settings());
  const file = new Blob([JSON.stringify(content, null, 2)], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(file), download: "conversation.json" });
  link.click();
  URL.revokeObjectURL(link.href);
});

// What is seen

function redrawLog() {
  $("log").replaceChildren(...conversation.exchanges.flatMap(exchangeParts));
  $("log").scrollTop = $("log").scrollHeight;
  refresh();
}

// The question as the runs were asked it; with the marks where their notations of boxes differ.
function asked(exchange) {
  const texts = new Set([...exchange.answers.keys()].map((model) => textFor(exchange, model)));
  return texts.size === 1 ? [...texts][0] : exchange.text;
}

function exchangeParts(exchange) {
  const question = make("div", { className: "asked" });
  question.append(
    ...exchange.images.map((image) => imageButton(image, exchange)),
    make("p", exchange.text ? { textContent: asked(exchange) } : { textContent: "Describe it.", className: "none" }),
  );
  const answers = make("div", { className: "answers" });
  answers.append(...[...exchange.answers].map(([model, answer]) => answerCard(exchange, model, answer)));
  const isOpen = [...exchange.answers.values()].some((answer) => answer.state === "open");
  const models = conversation.comparable(exchange);
  return models.length > 1 && !isOpen ? [question, answers, votes.comparison(conversation, exchange, models, redrawLog)] : [question, answers];
}

function answerCard(exchange, model, answer) {
  const card = make("article", { className: `answer ${answer.state}` });
  card.classList.toggle("best", exchange.best === model);
  card.style.setProperty("--model", color(model));
  const foot = make("footer");
  if (answer.state === "open") card.dataset.open = model;
  else if (answer.state === "failed") foot.append(answer.problem);
  else {
    if (hasAnswered(answer)) foot.append(...votes.buttons(conversation, exchange, model, redrawLog), ...masks.buttons(answer.masks));
    if (answer.state === "stopped") foot.append("stopped");
    if (answer.finish === "length") foot.append("cut at the longest answer");
  }
  const earlier = answer.earlier.map((image) => image.name).join(", ");
  if (earlier && answer.state !== "failed") foot.append(`saw ${earlier} from before`);
  const sent = textFor(exchange, model);
  card.append(
    make("h2", { textContent: model }),
    ...(sent === asked(exchange) ? [] : [make("p", { className: "sent", textContent: `asked: ${sent}` })]),
    make("p", { className: "text", textContent: answer.text || (answer.state === "done" ? "(no words)" : "") }),
    foot,
  );
  return card;
}

function refresh() {
  const busy = running !== null;
  const empty = conversation.exchanges.length === 0;
  $("attached").replaceChildren(
    ...attached.map((image) =>
      imageButton(image, null, () => {
        attached = attached.filter((other) => other !== image);
        marking.boxes.removeOf(image);
        regions.marks.removeOf(image);
        if (shown === image) look(null, null);
        refresh();
      }),
    ),
  );
  const changed = () => {
    refresh();
    draw();
  };
  $("marked").replaceChildren(...marking.boxes.chips(changed), ...regions.marks.chips(changed));
  const nothing = $("words").value.trim() === "" && attached.length === 0;
  $("send").textContent = $("words").value.trim() === "" ? "Describe" : "Ask";
  $("send").disabled = busy || nothing || chosen().length === 0;
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("regenerate").disabled = busy || empty || chosen().length === 0;
  $("clear").disabled = busy || (empty && attached.length === 0);
  $("save").disabled = busy || empty;
}
