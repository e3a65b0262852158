// What was said: exchanges of one question with an answer of each run.

import { picturesOf, viewOf, viewWords } from "./view.js";

// What stands for an image in a turn, as medcap.generation.typed_placeholders has it: <image> at the edges, ① anywhere.
const PLACEHOLDER = /<image>|\u2460+/g;
const RUN = /\u2460+/g;
// White space as Python has it, which reads the rows.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const BLANK = new RegExp(`^${SPACE}*$`);
const EDGES = new RegExp(`^${SPACE}+|${SPACE}+$`, "g");

export class Conversation {
  constructor() {
    this.exchanges = [];
  }

  // boxes: those that the text names; words: the text of each run, with the boxes in its notation; regions: that of each
  // <region></region> of the text.
  ask(text, images, models, boxes = [], words = {}, regions = []) {
    const answers = new Map(models.map((model) => [model, newAnswer()]));
    this.exchanges.push({ text, images, answers, boxes, words, regions, best: null });
    return this.exchanges.at(-1);
  }

  // The messages that a run is sent so that it answers one exchange.
  messages(exchange, model, system, alone) {
    const messages = system ? [{ role: "system", content: system }] : [];
    const turns = this.turns(exchange, model, alone);
    const pictures = picturesOf(turns.flatMap((turn) => turn.images));
    for (const { text, images, regions, answer } of turns) {
      const numbered = regions.map((region) => numberedRegion(region, pictures));
      messages.push({ role: "user", content: parts(text, images), ...(numbered.length && { regions: numbered }) });
      if (answer !== null) messages.push({ role: "assistant", content: answer });
    }
    return messages;
  }

  // The images that a run is sent with an exchange and the turns before it.
  seen(exchange, model, alone) {
    return this.turns(exchange, model, alone).flatMap((turn) => turn.images);
  }

  // The turns of a run: its own earlier answers, and at the end the exchange to answer, or none for all its answers.
  // A run has no answer where it was not ticked, failed, was stopped before a word came, or said nothing. The images
  // that were shown there go with its next turn, or it would answer that one blindly. Alone, an exchange without images
  // is about those that were shown last.
  turns(last, model, alone) {
    const asked = (images) => ({ text: textFor(last, model), images, regions: last.regions, answer: null });
    if (alone) return [asked(this.shownFor(last))];
    const turns = [];
    let waiting = [];
    for (const exchange of this.exchanges) {
      const images = [...waiting, ...exchange.images];
      if (exchange === last) return [...turns, asked(images)];
      const answer = wordsOf(exchange.answers.get(model));
      if (answer) {
        const { masks } = exchange.answers.get(model);
        const { regions } = exchange;
        turns.push({ text: fitting(textFor(exchange, model), images.length), images, regions, answer, masks });
      }
      waiting = answer ? [] : images;
    }
    return turns;
  }

  // The images of an exchange, or where it has none those that were shown last before it.
  shownFor(exchange) {
    const until = this.exchanges.slice(0, this.exchanges.indexOf(exchange) + 1);
    return until.findLast((earlier) => earlier.images.length > 0)?.images ?? [];
  }

  // The runs of an exchange that can be compared: all that answered it, if all of them saw the same images.
  comparable(exchange) {
    const answered = [...exchange.answers].filter(([, answer]) => hasAnswered(answer));
    const views = new Set(answered.map(([, answer]) => JSON.stringify(answer.seen.map((image) => [image.sha256, viewWords(image)]))));
    return views.size === 1 ? answered.map(([model]) => model) : [];
  }

  // As medcap and LLaVA read conversations (a row for each run that answered), and what it takes to repeat them.
  toJSON(settings) {
    const models = new Set(this.exchanges.flatMap((exchange) => [...exchange.answers.keys()]));
    return {
      written: new Date().toISOString(),
      settings,
      images: this.images().map(({ name, width, height, sha256 }) => ({ name, width, height, sha256 })),
      rows: [...models].map((model) => this.row(model)).filter((row) => row.conversations.length > 0),
      best: this.exchanges.map((exchange) => exchange.best),
    };
  }

  row(model) {
    const turns = this.turns(null, model);
    return {
      model,
      image: turns.flatMap((turn) => turn.images.map(rowEntry)),
      conversations: turns.flatMap(({ text, images, answer }) => [
        { from: "human", value: rowText(text, images.length) },
        { from: "gpt", value: answer },
      ]),
      ...rowRegions(turns),
      ...rowMasks(turns),
    };
  }

  images() {
    return this.exchanges.flatMap((exchange) => exchange.images);
  }
}

// A region as a row has it, with the number of the picture that it lies on.
function numberedRegion({ image, slice, region }, pictures) {
  const onIt = (other) => !slice || (slice.axis === other?.axis && slice.number === other?.number);
  const number = pictures.findLastIndex((picture) => picture.image === image && onIt(picture.slice));
  if (number < 0) throw new Error(`A region is on ${image.name}, which this run is not shown with the question.`);
  return { ...region, ...(number && { image: number }) };
}

function rowRegions(turns) {
  const pictures = picturesOf(turns.flatMap((turn) => turn.images));
  const regions = turns.flatMap((turn) => turn.regions.map((region) => numberedRegion(region, pictures)));
  return regions.length ? { regions } : {};
}

// The masks of a row, one for each <SEG> of its answers, each on the last image that was shown before it. A slice of a
// volume counts as an image.
function rowMasks(turns) {
  const masks = [];
  let count = 0;
  for (const turn of turns) {
    count += picturesOf(turn.images).length;
    const there = turn.masks.filter(({ mask }) => mask);
    if (there.length !== turn.answer.split("<SEG>").length - 1) return {};
    masks.push(...there.map(({ runLength }) => ({ mask: runLength, image: count - 1 })));
  }
  return masks.length ? { masks } : {};
}

function rowEntry(image) {
  const view = viewOf(image);
  return view ? { image: image.name, ...view } : image.name;
}

// What a run was asked, or would be.
export const textFor = (exchange, model) => exchange.words[model] ?? exchange.text;

export function newAnswer() {
  return { text: "", state: "open", finish: null, vote: null, regions: [], masks: [], seen: [], earlier: [] };
}

// Whether a run has answered, be it without words; what was stopped before a word came is not an answer.
export function hasAnswered(answer) {
  return answer.state === "done" || (answer.state === "stopped" && answer.text !== "");
}

// The words of an answer that further turns are told, and a row keeps.
function wordsOf(answer) {
  return answer && answer.state !== "failed" ? withoutPlaceholders(answer.text) : "";
}

function parts(text, images) {
  const shown = images.map((image) => ({ type: "image_url", image_url: { url: image.url }, view: viewOf(image) }));
  return text ? [...shown, { type: "text", text }] : shown;
}

// Typed words without the placeholders before and behind them, and how many those are.
function findPlaceholders(text) {
  const found = [...text.matchAll(PLACEHOLDER)];
  let [start, end, before, after] = [0, text.length, 0, 0];
  while (before < found.length && BLANK.test(text.slice(start, found[before].index))) {
    start = found[before].index + found[before][0].length;
    before += 1;
  }
  while (before + after < found.length) {
    const last = found[found.length - 1 - after];
    if (!BLANK.test(text.slice(last.index + last[0].length, end))) break;
    end = last.index;
    after += 1;
  }
  const words = text.slice(start, end).replaceAll(EDGES, "");
  return { before, words, after, count: before + [...words.matchAll(RUN)].length + after };
}

function withoutPlaceholders(text) {
  return findPlaceholders(text.replaceAll(RUN, "")).words;
}

// A question that was asked alone may name an image that stands in a turn before it.
function fitting(text, numImages) {
  return findPlaceholders(text).count <= numImages ? text : withoutPlaceholders(text);
}

// A turn of a row: a placeholder for each image; those that the words do not name stand before them.
function rowText(text, numImages) {
  const { before, words, after, count } = findPlaceholders(text);
  const tags = (number) => Array(number).fill("<image>");
  return [...tags(numImages - count + before), ...(words ? [words] : []), ...tags(after)].join("\n");
}
