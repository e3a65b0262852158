// Regions that a person draws on the picture: the next question names them by <region></region>, as training rows do.

import { Marks } from "./marks.js";
import { encode, measured } from "./masks.js";

const TAG = "<region></region>";

export const marks = new Marks("region", "#2ee6d6", ({ words }) => words);

const round = (number) => Math.round(10 * number) / 10;
const numbers = (given) => given.map(round).join(", ");

// box: in shares of the image.
export function addBox(image, box) {
  const edges = box.map((share, place) => round(share * (place % 2 ? image.height : image.width)));
  const [left, top, right, bottom] = edges;
  marks.add(image, { region: { box: edges }, box, words: `box ${numbers([left, top])} to ${numbers([right, bottom])}` });
}

// x, y and radius in pixels of the image.
export function addPoint(image, [x, y], radius) {
  const [point, size] = [[round(x), round(y)], Math.max(1, round(radius))];
  const mask = measured(disc(image, point, size));
  marks.add(image, { region: { point, radius: size }, mask, words: `point ${numbers(point)}, radius ${size}` });
}

// points: the way of the brush, in pixels. A way that begins in the region that was brushed last makes that one larger.
export function addStroke(image, points, radius) {
  const stroke = painted(image, points, Math.max(1, radius));
  const last = marks.all.at(-1);
  const [x, y] = points[0].map(Math.floor);
  const goesOn = last?.brushed && marks.inSight(image).length && last.image === image && last.mask.inside[y * image.width + x];
  if (goesOn) last.mask.inside.forEach((value, place) => (stroke.inside[place] ||= value));
  const pixels = stroke.inside.reduce((sum, value) => sum + value, 0);
  if (!pixels) return;
  const mark = {
    region: { mask: encode(stroke) },
    mask: measured(stroke),
    brushed: true,
    words: `brush, ${pixels.toLocaleString("en")} pixels`,
  };
  if (goesOn) marks.replaceLast(mark);
  else marks.add(image, mark);
}

// Typed words with <region></region> in the place of {region 1}, and the region of each; those that the words do not
// name follow them. As medcap.generation.typed_regions has it.
export function place(text) {
  const given = marks.all;
  const named = [];
  const pattern = given.length ? /\{region ?(\d{0,6})\}|<region>\s*<\/region>/g : /\{region ?(\d{0,6})\}/g;
  const words = text.replaceAll(pattern, (mark, digits) => {
    const number = digits ? Number(digits) : Math.max(0, ...named) + 1;
    if (number < 1 || number > given.length) throw new Error(`${mark} names a region that does not exist: ${given.length} were given`);
    named.push(number);
    return TAG;
  });
  const left = given.map((_, index) => index + 1).filter((number) => !named.includes(number));
  return {
    text: [...(words ? [words] : []), ...left.map(() => TAG)].join(" "),
    regions: [...named, ...left].map((number) => given[number - 1]),
  };
}

function disc({ width, height }, [x, y], radius) {
  const inside = new Uint8Array(width * height);
  const [top, bottom] = [Math.max(0, Math.floor(y - radius)), Math.min(height, Math.ceil(y + radius))];
  for (let row = top; row < bottom; row += 1) {
    for (let column = Math.max(0, Math.floor(x - radius)); column < Math.min(width, Math.ceil(x + radius)); column += 1) {
      if ((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 <= radius ** 2) inside[row * width + column] = 1;
    }
  }
  return { width, height, inside };
}

// What a round brush covers; only the part of the image that it reaches is drawn.
function painted({ width, height }, points, radius) {
  const ends = (along, most) => {
    const values = points.map((point) => point[along]);
    return [Math.max(0, Math.floor(Math.min(...values) - radius)), Math.min(most, Math.ceil(Math.max(...values) + radius))];
  };
  const [[left, right], [top, bottom]] = [ends(0, width), ends(1, height)];
  const pen = new OffscreenCanvas(right - left, bottom - top).getContext("2d");
  pen.translate(-left, -top);
  stroke(pen, points, radius);
  const { data } = pen.getImageData(0, 0, right - left, bottom - top);
  const inside = new Uint8Array(width * height);
  for (let row = top; row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) {
      if (data[4 * ((row - top) * (right - left) + column - left) + 3] >= 128) inside[row * width + column] = 1;
    }
  }
  return { width, height, inside };
}

// Draws the way of a round brush.
export function stroke(pen, points, radius) {
  pen.lineWidth = 2 * radius;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...points[0]);
  points.forEach((point) => pen.lineTo(...point));
  pen.stroke();
}
