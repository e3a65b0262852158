// What was said: exchanges of one question with an answer of each run.

export class Conversation {
  constructor() {
    this.exchanges = [];
  }

  ask(text, images, models) {
    const answers = new Map(models.map((model) => [model, newAnswer()]));
    this.exchanges.push({ text, images, answers, best: null });
    return this.exchanges.at(-1);
  }

  // The messages that a run is sent so that it answers one exchange; a run knows its own earlier answers only. Alone, an
  // exchange without images is about those that were shown last.
  messages(exchange, model, system, alone) {
    const messages = system ? [{ role: "system", content: system }] : [];
    if (alone) {
      return [...messages, { role: "user", content: parts({ text: exchange.text, images: this.shownFor(exchange) }) }];
    }
    for (const earlier of this.exchanges) {
      const answer = earlier.answers.get(model);
      if (earlier !== exchange && !answer?.text) continue;
      messages.push({ role: "user", content: parts(earlier) });
      if (earlier === exchange) break;
      messages.push({ role: "assistant", content: answer.text });
    }
    return messages;
  }

  // The images of an exchange, or where it has none those that were shown last before it.
  shownFor(exchange) {
    const until = this.exchanges.slice(0, this.exchanges.indexOf(exchange) + 1);
    return until.findLast((earlier) => earlier.images.length > 0)?.images ?? [];
  }

  // As medcap and LLaVA read conversations (a row for each run), and what it takes to repeat them.
  toJSON(settings) {
    const models = new Set(this.exchanges.flatMap((exchange) => [...exchange.answers.keys()]));
    return {
      written: new Date().toISOString(),
      settings,
      images: this.images().map(({ name, width, height, sha256 }) => ({ name, width, height, sha256 })),
      rows: [...models].map((model) => this.row(model)),
      best: this.exchanges.map((exchange) => exchange.best),
    };
  }

  row(model) {
    const turns = [];
    const images = [];
    for (const exchange of this.exchanges) {
      const answer = exchange.answers.get(model);
      if (!answer?.text) continue;
      images.push(...exchange.images.map((image) => image.name));
      const words = exchange.text ? [exchange.text] : [];
      turns.push({ from: "human", value: [...exchange.images.map(() => "<image>"), ...words].join("\n") });
      turns.push({ from: "gpt", value: answer.text });
    }
    return { model, image: images, conversations: turns };
  }

  images() {
    return this.exchanges.flatMap((exchange) => exchange.images);
  }
}

export function newAnswer() {
  return { text: "", state: "open", finish: null, vote: null, regions: [] };
}

function parts({ text, images }) {
  const shown = images.map((image) => ({ type: "image_url", image_url: { url: image.url } }));
  return text ? [...shown, { type: "text", text }] : shown;
}
